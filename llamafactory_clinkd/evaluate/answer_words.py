# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The words of a short answer: normalised as in VQA's evaluation, Chinese by jieba."""

import logging
import re

from ..utils.environment import require_library


_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WORDS = {"none": "0"} | {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_ARTICLES = {"a", "an", "the"}
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_CHINESE_PUNCTUATION = re.compile("[\u3000-\u303f\uff01-\uff0f\uff1a-\uff20]")


def answer_words(text: str) -> list[str]:
    """The words of an answer, by the rules of LLaVA-Med's ``glossary.py`` (VQA's, Antol et al., ICCV 2015).

    Lower case; a punctuation mark next to a blank is removed and becomes a blank elsewhere; a full stop before no
    digit is removed; number words become digits; articles are left out. Apostrophes are removed too, in the place of
    that file's list of contractions. Chinese text is cut into words by jieba first.
    """
    text = segment_chinese(text.lower())
    between_digits = re.search(r"\d,\d", text) is not None
    plain = text
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text or between_digits
        plain = plain.replace(mark, "" if beside_blank else " ")
    plain = re.sub(r"\.(?!\d)", "", plain).replace("'", "").replace("\u2019", "")
    words = (_NUMBER_WORDS.get(word, word) for word in plain.split())
    return [word for word in words if word not in _ARTICLES]


def segment_chinese(text: str) -> str:
    """The text with a blank between the words that jieba finds; unchanged without a Chinese character.

    Raises:
        ImportError: If there is Chinese and jieba is not installed; the message names the extra.
    """
    if not has_chinese(text):
        return text
    jieba = require_library("jieba", "eval", "Chinese text needs")
    jieba.setLogLevel(logging.WARNING)
    return " ".join(_CHINESE_PUNCTUATION.sub(" ", " ".join(jieba.cut(text))).split())


def has_chinese(text: str) -> bool:
    """Whether a text has a Chinese character."""
    return _CHINESE.search(text) is not None
