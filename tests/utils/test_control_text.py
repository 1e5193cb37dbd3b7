# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest

from llamafactory_clinkd.data.problems import Reject
from llamafactory_clinkd.data.text import clean_text
from llamafactory_clinkd.utils.control_text import control_character, special_token


@pytest.mark.parametrize(
    "token",
    ["<|endoftext|>", "<|image_pad|>", "<|IM_END|>", "<|vision_start|>", "<|reserved-7|>", "<video>", "<Audio>"]
    + ["<｜end▁of▁sentence｜>", "＜|im_end|＞", "<|eot.id|>"],
)
def test_special_tokens_are_found_and_rejected_by_convert(token):
    assert special_token(f"a {token} b") == token
    with pytest.raises(Reject) as caught:
        clean_text(f"a {token} b")
    assert caught.value.reason == "control_token"


@pytest.mark.parametrize(
    "character", ["\0", "\x1b", "\x7f", "\x85", "\u200b", "\u202e", "\u2066", "\ufeff", "\U000e0041"]
)
def test_control_characters_are_found_and_rejected_by_convert(character):
    assert control_character(f"a{character}b") == character
    with pytest.raises(Reject) as caught:
        clean_text(f"a{character}b")
    assert caught.value.reason == "control_token"


@pytest.mark.parametrize(
    "text",
    [
        "<|box_start|>(1,2),(3,4)<|box_end|>",
        "<|OBJECT_REF_START|>",
        "<ref>liver</ref>",
        "a < b | c > d",
        "<image>Where?",
    ]
    + ["＜|box_start|＞", "tab\tand\r\nlines", "Läsion 5 µm – größer", "肝脏（１，２）", "می\u200cشود"],
)
def test_ordinary_text_has_none(text):
    assert special_token(text) is None and control_character(text) is None


def test_joiners_can_be_refused():
    assert control_character("li\u200dver", joiners=False) == "\u200d"
