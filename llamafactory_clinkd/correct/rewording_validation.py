# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Whether a rewording may replace a ground truth: it keeps "the original meaning and anchor box coordinates" (3.3)."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby

from ..utils.boxes import TAGS, box_strings, strip_boxes, tags_balanced
from .judge import text_similarity
from .similarity import Similarity


LEAK_WORDS = 5
LOCATING_WORDS = frozenset(
    "the a an it its is are this that these here there located situated found seen shown at in on within by can be "
    "lies lie image picture scan position location region area box boxes marked following requested structure".split()
)
EXCLUSIVE_WORDS = tuple(
    frozenset(words.split())
    for words in (
        "left right bilateral unilateral; anterior posterior ventral dorsal; "
        "superior inferior upper lower cranial caudal; lateral medial proximal distal; "
        "acute chronic; benign malignant; mild moderate severe; increased decreased; normal abnormal"
    ).split(";")
)
CRITICAL_WORDS = frozenset.union(*EXCLUSIVE_WORDS) | {"yes"}
NEGATIONS = frozenset("no not none never without absent absence negative neither nor cannot".split())
_NUMBERS = "two three four five six seven eight nine ten eleven twelve".split()
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS, start=2)}
_TOKEN = re.compile(r"\d+(?:[.,]\d+)?|[^\W\d_]+(?:['’][^\W\d_]+)?")
_CHAT_MARKS = re.compile(r"<\|im_(?:start|end)\|>|```|\"candidates\"|\bas an ai\b", re.IGNORECASE)
_TAG = re.compile("|".join(re.escape(tag) for style in TAGS.values() for tag in style.values()), re.IGNORECASE)
_TAGGED_BOX, _TAGGED_REFERENCE = (
    re.compile(
        "|".join(f"{re.escape(style[kind])}(.*?){re.escape(style['/' + kind])}" for style in TAGS.values()),
        re.IGNORECASE | re.DOTALL,
    )
    for kind in ("box", "ref")
)


def label_key(text: str) -> str:
    """The form in which two labels are compared: lower case, single spaces, no final punctuation."""
    return " ".join(text.casefold().split()).rstrip(" .!,;:")


def prompt_runs(prompt: str) -> frozenset[tuple[str, ...]]:
    """Every run of :data:`LEAK_WORDS` words of a prompt template."""
    words = _words(prompt)
    return frozenset(zip(*(words[start:] for start in range(LEAK_WORDS)), strict=False))


def candidate_similarities(
    candidates: Sequence[str], *, annotation: str, question: str, similarity: Similarity
) -> list[float]:
    """The similarity of each candidate to the ground truth, boxes and tags aside, in one batch.

    A ground truth of boxes alone has no words to compare. A candidate then scores 1 if it has only words of the
    question and of :data:`LOCATING_WORDS`, which add nothing but "it is here", else 0.
    """
    if strip_boxes(annotation):
        return text_similarity([annotation] * len(candidates), candidates, similarity)
    allowed = LOCATING_WORDS.union(_words(question))
    return [float(allowed.issuperset(_words(candidate))) for candidate in candidates]


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
    """Why a candidate may not replace the ground truth ``annotation``; empty if it may.

    ``similarity`` comes from :func:`candidate_similarities`, ``leaks`` from :func:`prompt_runs`; ``existing`` labels
    have the form of :func:`label_key`. ``docs/correction.md`` lists the reasons.
    """
    if not candidate.strip():
        return ["empty"]
    if is_too_long(candidate, annotation):
        return ["too_long"]

    true_words, words = _words(annotation), _words(candidate)
    new_runs = prompt_runs(candidate) - prompt_runs(f"{annotation}\n{question}")
    checks = {
        "too_long": len(words) > 2 * len(true_words) + 12,
        "too_short": len(words) < len(true_words) / 2,
        "boxes": _boxes_and_references(candidate) != _boxes_and_references(annotation),
        "tags": not tags_balanced(candidate) or _tag_counts(candidate) != _tag_counts(annotation),
        "meaning_words": not keeps_meaning(annotation, candidate, question),
        "similarity": similarity < threshold,
        "existing_label": label_key(candidate) in existing,
        "prompt_leak": bool(_CHAT_MARKS.search(candidate) or new_runs.intersection(leaks)),
    }
    return [reason for reason, rejected in checks.items() if rejected]


def is_too_long(candidate: str, annotation: str) -> bool:
    """Whether a candidate has so many characters that no model needs to score it."""
    return len(candidate) > 4 * len(annotation) + 200


def keeps_meaning(annotation: str, candidate: str, question: str = "") -> bool:
    """Whether a rewording has the ground truth's critical words, numbers and negation.

    Numbers stay in their order, and so do the words of each set of :data:`EXCLUSIVE_WORDS`; the rest may move. A
    rewording may add critical words of the question ("Is there fluid in the left lung?", "Yes" may become "Yes, there
    is fluid in the left lung"), but no others.
    """
    (true_words, true_negated), (words, negated) = _critical_words(annotation), _critical_words(candidate)
    allowed = {*true_words, *_critical_words(question)[0]}
    same_words = set(true_words) <= set(words) <= allowed and true_negated == negated
    sequences = zip(_ordered_words(true_words), _ordered_words(words), strict=True)
    return same_words and all(_is_subsequence(short, long) for short, long in sequences)


def _words(text: str) -> list[str]:
    """The lower-case words and numbers of ``text`` without its boxes and tags, in order."""
    return _TOKEN.findall(strip_boxes(text).casefold())


def _critical_words(text: str) -> tuple[list[str], bool]:
    """Critical words and numbers in digits ("two" counts as 2), in order, and whether any word negates."""
    critical, negated = [], False
    for word in _words(text):
        if word[0].isdigit() or word in CRITICAL_WORDS:
            critical.append(word.replace(",", "."))
        elif word in _DIGITS:
            critical.append(_DIGITS[word])
        elif word in NEGATIONS or word.endswith(("n't", "n’t")):
            negated = True
    return critical, negated


def _ordered_words(critical: list[str]) -> list[list[str]]:
    """The numbers, then the words of each set of :data:`EXCLUSIVE_WORDS`, in order, direct repetitions once."""
    kinds = [[word for word in critical if word[0].isdigit()]]
    kinds += [[word for word in critical if word in words] for words in EXCLUSIVE_WORDS]
    return [[word for word, _ in groupby(kind)] for kind in kinds]


def _is_subsequence(short: Iterable[str], long: Iterable[str]) -> bool:
    rest = iter(long)
    return all(word in rest for word in short)


def _boxes_and_references(text: str) -> tuple[list[str], list[str], list[str]]:
    """Box coordinates and tagged boxes, character for character, and the words between reference tags."""
    references = ["".join(match.groups(default="")) for match in _TAGGED_REFERENCE.finditer(text)]
    return box_strings(text), [match[0] for match in _TAGGED_BOX.finditer(text)], [label_key(r) for r in references]


def _tag_counts(text: str) -> Counter[str]:
    return Counter(tag.lower() for tag in _TAG.findall(text))
