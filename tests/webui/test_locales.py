# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import re
import string

import pytest

from llamafactory_clinkd.webui.elements import DRIVERS, ELEMENTS, GROUPS, unused_elements
from llamafactory_clinkd.webui.locales import LANGUAGES, texts


def placeholders(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_element_has_a_label_and_help(lang):
    elements = texts(lang)["elements"]
    assert set(elements) == set(ELEMENTS)
    for name, words in elements.items():
        assert set(words) == {"label", "info"} and words["label"].strip() and words["info"].strip(), name


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_language_has_the_same_keys(lang):
    english = texts("en")
    for part in ("groups", "reasons", "board", "messages", "chat"):
        assert set(texts(lang)[part]) == set(english[part])
    for part in ("messages", "chat"):
        for name, text in texts(lang)[part].items():
            assert placeholders(text) == placeholders(english[part][name])
    for name, text in texts(lang)["board"]["plan"].items():
        assert placeholders(text) == placeholders(english["board"]["plan"][name])


@pytest.mark.parametrize(
    "lang, letters", [("ru", "[а-я]"), ("zh", "[一-鿿]"), ("ko", "[가-힣]"), ("ja", "[ぁ-んァ-ヶ一-鿿]")]
)
def test_nothing_is_left_in_english(lang, letters):
    catalogue = texts(lang)
    flat = [*catalogue["groups"].values(), *catalogue["reasons"].values(), catalogue["board"]["estimate"]]
    flat += [
        *catalogue["messages"].values(),
        *catalogue["chat"].values(),
        *(text for words in catalogue["elements"].values() for text in words.values()),
        *(text for name in ("preset", "presets", "gpu", "gpus", "plan") for text in catalogue["board"][name].values()),
    ]
    assert [text for text in flat if not re.search(letters, text)] == []


def test_labels_differ_within_a_language():
    for lang in LANGUAGES:
        labels = [words["label"] for words in texts(lang)["elements"].values()]
        assert len(set(labels)) == len(labels), lang


def test_every_element_is_in_one_group():
    names = [name for rows in GROUPS.values() for row in rows for name in row]
    assert sorted(names) == sorted(ELEMENTS)


def test_every_reason_can_be_given():
    reasons = set()
    for phases in ([], ["distill"], ["pseudo_label", "distill", "correct", "predict", "evaluate"]):
        for method in ("pseudo_kd", "vkd", "none"):
            for changes in (
                {},
                {"rope_variant": "mrope", "sasg_scorer": "logprob", "correction_similarity": "lexical"},
            ):
                values = {name: ELEMENTS[name].default for name in DRIVERS} | changes
                reasons |= set(unused_elements(values | {"clinkd_phases": phases, "kd_method": method}).values())
    assert reasons - {""} == set(texts("en")["reasons"])
