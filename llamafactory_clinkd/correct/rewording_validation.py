# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Whether a rewording may replace a ground truth: it keeps "the original meaning and anchor box coordinates" (3.3).

==============  ==========================================================================================
reason          the candidate is rejected because
==============  ==========================================================================================
empty           it has no text
too_long        it has over ``4 * characters + 200`` of the ground truth, or over ``2 * words + 12``
too_short       it has under half the words of the ground truth
boxes           its boxes are not the ground truth's, in order and character for character, or the references
                between tags are others or in another order (case and blanks aside)
tags            its tags do not close, or are not the ground truth's
meaning_words   a side, degree, number or negation changed, or two sides their places (:mod:`.meaning`)
similarity      its similarity to the ground truth is below the threshold
existing_label  some ground truth, or a label given by the caller, reads the same
prompt_leak     it holds five words in a row of the prompt template, or marks of a chat or JSON answer
==============  ==========================================================================================

A ground truth of boxes alone has no words to be similar to. Its rewording may use the words of the question and those
of :data:`LOCATING_WORDS`, which say only "it is here": similarity 1 then, else 0.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from ..utils.boxes import TAGS, box_strings, strip_boxes, tags_balanced
from .judge import text_similarity
from .similarity import Similarity


LOCATING_WORDS = frozenset(
    "the a an it its is are this that these here there located situated found seen shown at in on within by can be "
    "lies lie image picture scan position location region area box boxes marked following requested structure".split()
)

LEAK_RUN = 5

_CHAT_MARKS = re.compile(r"<\|im_(?:start|end)\|>|```|\"candidates\"|\bas an ai\b", re.IGNORECASE)

_TAGGED = re.compile(
    "|".join(f"{re.escape(style['box'])}.*?{re.escape(style['/box'])}" for style in TAGS.values()), re.I | re.DOTALL
)

_REFERRED = re.compile(
    "|".join(f"{re.escape(style['ref'])}(.*?){re.escape(style['/ref'])}" for style in TAGS.values()), re.I | re.DOTALL
)

_TAGS = re.compile("|".join(re.escape(tag) for style in TAGS.values() for tag in style.values()), re.IGNORECASE)


def label_key(text: str) -> str:
    """The form in which two labels are compared: lower case, single blanks, no final punctuation."""
    return " ".join(text.casefold().split()).rstrip(" .!,;:")


def prompt_runs(prompt: str) -> frozenset[tuple[str, ...]]:
    """Every run of :data:`LEAK_RUN` words of a prompt template."""
    words = words_of(prompt)
    return frozenset(tuple(words[i : i + LEAK_RUN]) for i in range(len(words) - LEAK_RUN + 1))


def candidate_similarities(
    candidates: Sequence[str], *, annotation: str, question: str, similarity: Similarity
) -> list[float]:
    """The similarity of each candidate to the ground truth, boxes and tags aside, in one batch."""
    if strip_boxes(annotation):
        return text_similarity([annotation] * len(candidates), candidates, similarity)
    allowed = LOCATING_WORDS.union(words_of(question))
    return [float(allowed.issuperset(words_of(candidate))) for candidate in candidates]


def rejection_reasons(
    candidate: str,
    *,
    annotation: str,
    question: str,
    similarity: float,
    threshold: float,
    existing: Collection[str],
    leaks: Collection[tuple[str, ...]] = frozenset(),
) -> list[str]:
    """Why a candidate may not replace the ground truth, by the table at the top of this file; empty if it may.

    Args:
        candidate: The rewording.
        annotation: The ground truth.
        question: The question of the row.
        similarity: Of candidate and ground truth: :func:`candidate_similarities`.
        threshold: The least similarity.
        existing: Labels in the form of :func:`label_key`.
        leaks: :func:`prompt_runs` of the prompt.
    """
    if not candidate.strip():
        return ["empty"]
    if is_too_long(candidate, annotation):
        return ["too_long"]

    truth, words = words_of(annotation), words_of(candidate)
    foreign = prompt_runs(candidate) - prompt_runs(f"{annotation}\n{question}")
    reasons = {
        "too_long": len(words) > 2 * len(truth) + 12,
        "too_short": len(words) < len(truth) / 2,
        "boxes": _boxes_as_written(candidate) != _boxes_as_written(annotation)
        or _references(candidate) != _references(annotation),
        "tags": not tags_balanced(candidate) or _tag_counts(candidate) != _tag_counts(annotation),
        "meaning_words": not keeps_meaning(annotation, candidate, question),
        "similarity": similarity < threshold,
        "existing_label": label_key(candidate) in existing,
        "prompt_leak": bool(_CHAT_MARKS.search(candidate) or foreign.intersection(leaks)),
    }
    return [reason for reason, found in reasons.items() if found]


def is_too_long(candidate: str, annotation: str) -> bool:
    """Whether a candidate is beyond any use, so that no model need read it."""
    return len(candidate) > 4 * len(annotation) + 200


def _boxes_as_written(text: str) -> tuple[list[str], list[str]]:
    """The boxes, and whatever stands between box tags, character for character."""
    return box_strings(text), _TAGGED.findall(text)


def _references(text: str) -> list[str]:
    """What the boxes are boxes of: the words between reference tags, in order."""
    return [label_key("".join(match.groups(default=""))) for match in _REFERRED.finditer(text)]


def _tag_counts(text: str) -> Counter[str]:
    return Counter(tag.lower() for tag in _TAGS.findall(text))


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
