# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import importlib.util

import pytest

from llamafactory_clinkd.correct.wordnet import is_body_part, opposite, same_meaning, wordnet_folder


@pytest.mark.parametrize(
    "pair",
    ["renal kidney", "hepatic liver", "cardiac heart", "pulmonary lung", "tumor neoplasm", "enlarge enlargement",
     "fracture fractured", "hyperintense hyperintensity", "displace displacement", "bowel intestine", "large big",
     "hemorrhage bleeding", "bilaterally bilateral", "pancreatic pancreas"],
)  # fmt: skip
def test_same_meaning(pair):
    a, b = pair.split()
    assert same_meaning(a, b) and same_meaning(b, a) and not opposite(a, b)


@pytest.mark.parametrize(
    "pair",
    ["hyperintense hypointense", "stable unstable", "normal abnormal", "benign malignant", "acute chronic",
     "symmetric asymmetric", "supratentorial infratentorial", "increase decrease", "typical atypical"],
)  # fmt: skip
def test_opposites(pair):
    a, b = pair.split()
    assert opposite(a, b) and opposite(b, a) and not same_meaning(a, b)


@pytest.mark.parametrize(
    "pair",
    ["stomach abdomen", "hip pelvis", "neck cervix", "back spine", "breast chest", "brain head", "artery vein",
     "position positive", "mass massive", "ureter urethra", "ileum ilium", "humerus humorous"],
)  # fmt: skip
def test_different_words(pair):
    a, b = pair.split()
    assert not same_meaning(a, b)


def test_parts_of_the_body():
    words = "lung heart vertebra kidney cyst nodule mass effusion fracture tumor".split()
    assert [word for word in words if is_body_part(word)] == ["lung", "heart", "vertebra", "kidney"]


def test_missing_files_name_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"llamafactory-clinkd\[correct\]"):
        wordnet_folder()
