# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest

from llamafactory_clinkd.correct.corrector import CorrectionItem, PromptTemplate


ITEM = CorrectionItem("1", "Where is $it?", "The {hip} <box>(1,2),(3,4)</box>", 'said "left"')


def test_the_built_in_prompt_holds_the_row_as_it_is():
    text = PromptTemplate().render(ITEM, 3)
    for part in ITEM[1:]:
        assert part in text
    assert "[3 different" in text and "$" not in text.replace(ITEM.question, "")


def test_the_fixed_text_has_no_placeholder():
    assert "$" not in PromptTemplate().fixed_text and "character for character" in PromptTemplate().fixed_text


def test_replacing_the_template(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("$count of $annotation for $$5")
    assert PromptTemplate(path).render(ITEM, 2) == f"2 of {ITEM.annotation} for $5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$annotation", "expected .annotation and .count"),
        ("$annotation $count $image", "image"),
        ("$ $count", "malformed"),
    ],
)
def test_bad_templates(tmp_path, text, message):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        PromptTemplate(path)


def test_missing_template(tmp_path):
    with pytest.raises(FileNotFoundError, match="correction_prompt"):
        PromptTemplate(tmp_path / "none.txt")
