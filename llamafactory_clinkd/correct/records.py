# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The lines of a round's record, and what they add up to.

One line an input row: ``id, image, question, annotation, response, similarity, grounding, iou, needs_correction,
reason, status, corrected, error, candidates, fingerprint``.

=========  ===========================================================================================
status     meaning
=========  ===========================================================================================
kept       the answer was good enough: nothing to correct
corrected  ``corrected`` is a rewording that passed validation and had the best score
rejected   the row needed correction but has none: no candidate passed, the corrector failed (``error``), or
           the row is unusable (``reason`` says why). Its ground truth stays
=========  ===========================================================================================
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from .corrector import CorrectionResult, Usage
from .judge import Verdict
from .rewording_validation import candidate_similarities, is_too_long, rejection_reasons
from .similarity import Similarity


Row = Mapping[str, Any]
Status = Literal["kept", "corrected", "rejected"]
INPUT_KEYS = ("id", "image", "question", "annotation", "response")
RECORDED_CHARACTERS = 2000
"""A rejected candidate is recorded up to here."""


class CandidateScorer(Protocol):
    """Scores candidates against the image; its score is added to the similarity when the best one is chosen."""

    name: str

    def scores(self, image: Any, texts: Sequence[str]) -> list[float]:
        """The score of each text for one row's ``image``."""


@dataclass(frozen=True)
class RoundSummary:
    """What a round came to; ``kept + corrected + rejected == rows``."""

    rows: int
    kept: int
    corrected: int
    rejected: int
    reasons: dict[str, int]
    """Rows by the reason of their verdict."""
    rejections: dict[str, int]
    """Rejected rows by cause: a corrector's error, or every reason that a candidate of theirs had."""
    usage: dict[str, float]
    """Requests and tokens of the whole round, interrupted runs included; ``cost`` where prices are known."""

    def as_dict(self) -> dict[str, Any]:
        """The summary as a plain dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Validation:
    """What candidates are held against."""

    similarity: Similarity
    threshold: float
    existing: frozenset[str]
    leaks: frozenset[tuple[str, ...]]
    candidates: int
    scorer: CandidateScorer | None


def corrected_record(row: Row, verdict: Verdict, result: CorrectionResult, against: Validation) -> dict[str, Any]:
    """The record of a row whose corrector has answered: its candidates checked, the best one kept."""
    question, annotation = row["question"], row["annotation"]
    texts = result.candidates[: against.candidates]
    read = [text for text in texts if text.strip() and not is_too_long(text, annotation)]
    scores = candidate_similarities(read, annotation=annotation, question=question, similarity=against.similarity)
    similarities = dict(zip(read, scores, strict=True))
    found = []
    for text in texts:
        score = similarities.get(text, 0.0)
        reasons = rejection_reasons(
            text, annotation=annotation, question=question, similarity=score, threshold=against.threshold,
            existing=against.existing, leaks=against.leaks,
        )  # fmt: skip
        kept_text = text[:RECORDED_CHARACTERS] if reasons else text
        found.append({"text": kept_text, "similarity": score, "score": score, "reasons": reasons})

    passed = [each for each in found if not each["reasons"]]
    if passed and against.scorer is not None:
        extra = against.scorer.scores(row.get("image"), [each["text"] for each in passed])
        for each, more in zip(passed, extra, strict=True):
            each["score"] += more
    best = max(passed, key=lambda each: each["score"], default=None)  # the first of equals
    return record_of(
        row,
        verdict,
        "corrected" if best else "rejected",
        corrected=best["text"] if best else None,
        error=result.error,
        candidates=found,
    )


def record_of(row: Row, verdict: Verdict | None, status: Status, **found: Any) -> dict[str, Any]:
    """A record, still without its fingerprint; ``found`` overrides what it names."""
    judged = verdict or {"similarity": None, "grounding": None, "iou": [], "needs_correction": True, "reason": None}
    outcome = {"status": status, "corrected": None, "error": None, "candidates": []}
    return {key: row.get(key) for key in INPUT_KEYS} | {k: v for k, v in judged.items() if k != "id"} | outcome | found


def summarise(
    records: Sequence[Mapping[str, Any]], usage: Usage, prices: Sequence[float] | None = None
) -> RoundSummary:
    """Counts the records of a whole round; with ``prices`` (see :meth:`.Usage.cost`) also what it cost."""
    statuses = Counter(each["status"] for each in records)
    rejections: Counter[str] = Counter()
    for each in records:
        if each["status"] == "rejected":
            causes = {reason for candidate in each["candidates"] for reason in candidate["reasons"]}
            rejections.update(
                causes or {each["error"] or ("unusable" if each["similarity"] is None else "no_candidates")}
            )
    return RoundSummary(
        rows=len(records),
        kept=statuses["kept"],
        corrected=statuses["corrected"],
        rejected=statuses["rejected"],
        reasons=dict(sorted(Counter(each["reason"].partition(":")[0] for each in records).items())),
        rejections=dict(sorted(rejections.items())),
        usage=usage.as_dict() | ({} if prices is None else {"cost": usage.cost(prices)}),
    )
