# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Words that carry a medical meaning which text embeddings do not see.

all-MiniLM-L6-v2 gives "left hip" and "right hip" a similarity of 0.905 (measured here), far above the threshold of
0.8. So a rewording is also compared by its critical words: sides and directions, degrees, numbers, negation. "The left
kidney is enlarged and the right kidney is normal" has the same words with the sides exchanged, at a similarity of
0.997: so words that exclude each other keep their order, too.
"""

import re
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from ..utils.boxes import strip_boxes


EXCLUSIVE_WORDS = tuple(
    frozenset(words.split())
    for words in (
        "left right bilateral unilateral",
        "anterior posterior ventral dorsal",
        "superior inferior upper lower cranial caudal",
        "lateral medial proximal distal",
        "acute chronic",
        "benign malignant",
        "mild moderate severe",
        "increased decreased",
        "normal abnormal",
    )
)
CRITICAL_WORDS = frozenset.union(*EXCLUSIVE_WORDS) | {"yes"}
NEGATIONS = frozenset("no not none never without absent absence negative neither nor cannot".split())
_NUMBER_WORDS = dict(
    zip("two three four five six seven eight nine ten eleven twelve".split(), map(str, range(2, 13)), strict=True)
)
_TOKEN = re.compile(r"\d+(?:[.,]\d+)?|[^\W\d_]+(?:['’][^\W\d_]+)?")


class Meaning(NamedTuple):
    """What a rewording must not change."""

    critical: tuple[str, ...]
    """Critical words, and numbers in digits ("two" counts as 2), in order."""
    negated: bool
    """Whether any word negates."""


def words_of(text: str) -> list[str]:
    """The lower-case words and numbers of ``text`` without its boxes and tags, in order."""
    return _TOKEN.findall(strip_boxes(text).casefold())


def meaning_of(text: str) -> Meaning:
    """The critical words of ``text``, boxes and tags aside."""
    critical, negated = [], False
    for word in words_of(text):
        if word[0].isdigit() or word in CRITICAL_WORDS:
            critical.append(word.replace(",", "."))
        elif word in _NUMBER_WORDS:
            critical.append(_NUMBER_WORDS[word])
        elif word in NEGATIONS or word.endswith(("n't", "n’t")):
            negated = True
    return Meaning(tuple(critical), negated)


def keeps_meaning(annotation: str, candidate: str, question: str = "") -> bool:
    """Whether a rewording has the ground truth's critical words and its negation.

    Numbers stay in their order, and so do the words of each set of :data:`EXCLUSIVE_WORDS`; the rest may move. It may
    take up critical words of the question ("Is there fluid in the left lung?", "Yes" may become "Yes, there is fluid
    in the left lung"), but none from elsewhere.
    """
    truth, reworded = meaning_of(annotation), meaning_of(candidate)
    allowed = {*truth.critical, *meaning_of(question).critical}
    same_words = set(truth.critical) <= set(reworded.critical) <= allowed and truth.negated == reworded.negated
    return same_words and all(
        _is_subsequence(left, right)
        for left, right in zip(_sequences(truth.critical), _sequences(reworded.critical), strict=True)
    )


def _sequences(critical: Iterable[str]) -> list[list[str]]:
    """The numbers, then the words of each set of :data:`EXCLUSIVE_WORDS`, in order; a word repeated at once is one."""
    words = list(critical)
    kinds = [[word for word in words if word[0].isdigit()], *([w for w in words if w in s] for s in EXCLUSIVE_WORDS)]
    return [[word for word, _ in groupby(kind)] for kind in kinds]


def _is_subsequence(words: list[str], others: list[str]) -> bool:
    rest = iter(others)
    return all(word in rest for word in words)
