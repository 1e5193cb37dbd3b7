# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The default corrector: rewording by rules, on this machine, the same for the same row every time.

It makes the labels more diverse without changing what they say. It knows no medicine, so it never reads the model's
answer: it rewords the ground truth alone, by the rules of :mod:`.rewording`.
"""

import random
import re
from collections.abc import Iterable, Iterator
from itertools import islice

from ..utils.boxes import strip_boxes
from . import rewording_rules as rewording
from .corrector import CorrectionItem, CorrectionResult, Usage
from .rewording_validation import label_key


_GROUP = 32
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|shows?|appears?|seems?|suggests?|indicates?|represents?|depicts?|displays?|"
    r"contains?|reveals?|demonstrates?|lies|lie)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\ue000-\uf8ff])")


class OfflineCorrector:
    """Rewords by rules: see :mod:`.rewording`.

    Args:
        candidates: At most this many rewordings a row, >= 1.

    Raises:
        ValueError: If ``candidates`` is below 1.
    """

    name = "offline:rules-1"
    prompt_text = ""

    def __init__(self, candidates: int = 3):
        if candidates < 1:
            raise ValueError(f"correction_candidates is {candidates}: expected at least 1.")
        self.candidates = candidates
        self.usage = Usage()

    def start_round(self, usage: Usage) -> None:
        """See :meth:`.Corrector.start_round`; rules cost nothing."""
        self.usage = usage

    def correct(self, items: Iterable[CorrectionItem]) -> Iterator[list[CorrectionResult]]:
        """See :meth:`.Corrector.correct`."""
        results = map(self._correct_one, items)
        while group := list(islice(results, _GROUP)):
            yield group

    def _correct_one(self, item: CorrectionItem) -> CorrectionResult:
        found = reword(item.annotation, question=item.question, seed=item.id, count=self.candidates)
        return CorrectionResult(item.id, tuple(found), None if found else "no_rule")


def reword(text: str, *, question: str, seed: str, count: int) -> list[str]:
    """Up to ``count`` distinct rewordings of ``text``, none equal to it but for case and final mark.

    Args:
        text: The ground truth, with boxes and tags of any style.
        question: The question it answers; it lends a subject, never a fact.
        seed: The row's id: equal arguments give equal results on every machine.
        count: How many at most.
    """
    if not text.strip() or re.search(rewording.ATOM, text):
        return []
    rng = random.Random(seed)  # a str seed goes through SHA-512: independent of PYTHONHASHSEED
    protected = rewording.protect(text.strip())
    question = strip_boxes(question)

    if not strip_boxes(text):
        pool = _rotated(rewording.box_only_frames(protected.text, question), rng)
    elif _is_label(protected.text):
        pool = rewording.label_frames(protected.text, question)
    else:
        pool = _sentence_pool(protected.text, rng, count)

    seen, results = {label_key(text)}, []
    for candidate in pool:
        restored = protected.restore(candidate)
        if label_key(restored) not in seen:
            seen.add(label_key(restored))
            results.append(restored)
    return results[:count]


def _is_label(text: str) -> bool:
    return (
        len(text.split()) <= 6
        and not re.search(r"[;:]", text)
        and not (_VERB.search(text) or _SENTENCE_END.search(text))
    )


def _sentence_pool(text: str, rng: random.Random, count: int) -> Iterator[str]:
    """Random combinations of frames and synonyms, then openings: endless draws are bounded by the count."""
    sentences = _SENTENCE_END.split(text)
    for _ in range(4 * count):
        drawn = [_draw_sentence(sentence, rng) for sentence in sentences]
        yield " ".join(drawn)
    for opening in _rotated(list(rewording.OPENINGS), rng):
        yield rewording.opening_variant(text, opening)


def _draw_sentence(sentence: str, rng: random.Random) -> str:
    variants = rewording.frame_variants(sentence)
    if variants and rng.random() < 0.7:
        sentence = rng.choice(variants)
    for start, end, others in reversed(rewording.synonym_sites(sentence)):
        if rng.random() < 0.7:
            sentence = sentence[:start] + rng.choice(others) + sentence[end:]
    return sentence


def _rotated(frames: list[str], rng: random.Random) -> list[str]:
    start = rng.randrange(len(frames))
    return frames[start:] + frames[:start]
