# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One round of Reflective Correction (section 3.3, Figure 2): judge, correct, validate, keep the best, record it all.

The record, ``corrections/round-N.jsonl``, is described in :mod:`.records`. Lines are appended as verdicts fall. A run
that is killed and started again takes them up: a row is done when its line has the fingerprint of the same row,
settings and models, whatever its status; delete the file to begin anew. At the end it is rewritten in the order of the
input. Rows are judged in fixed blocks and candidates row by row, so that numbers do not depend on where a run was cut.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ..utils.io import append_jsonl, content_hash, read_json, read_jsonl, write_json, write_jsonl
from .corrector import CorrectionItem, CorrectionResult, Corrector, Usage
from .judge import Verdict, judge
from .rewording_validation import candidate_similarities, is_too_long, label_key, prompt_runs, rejection_reasons
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


logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]

"""Called with a stage (``judge`` or ``correct``), the rows done and the rows of the stage."""

JUDGE_BLOCK = 1024


def correct_round(
    rows: Sequence[Row],
    *,
    similarity: Similarity,
    corrector: Corrector,
    threshold: float = 0.8,
    iou_threshold: float = 0.5,
    candidates: int = 3,
    out_path: str | Path,
    existing_labels: Collection[str] | None = None,
    scorer: CandidateScorer | None = None,
    token_prices: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> RoundSummary:
    """Runs one round, or the rest of it.

    Args:
        rows: Each with the strings ``id``, ``question``, ``annotation`` (ground truth) and ``response`` (the model's
            answer), and with ``image``, which is recorded and never read here.
        similarity: Judges answers and validates candidates.
        corrector: Rewords ground truths.
        threshold: Answers below it need correction; candidates below it are rejected.
        iou_threshold: A box below it is wrong.
        candidates: At most so many candidates of a row are looked at.
        out_path: ``corrections/round-N.jsonl``; beside it ``round-N.usage.json`` holds what was spent.
        existing_labels: Labels that no candidate may equal, beside all the rows' own ground truths.
        scorer: Adds its score to the similarity when the best candidate is chosen.
        token_prices: Of a million prompt and a million completion tokens; the cost is then logged and recorded.
        progress: Is told how far the round is.

    Raises:
        ValueError: If an id is missing or occurs twice; the message names it.
        RuntimeError: If the corrector answers an item twice, not at all, or one it was not given.
    """
    out_path = Path(out_path)
    _check_ids(rows)
    tell = progress or (lambda stage, done, total: None)
    usable = [row for row in rows if _fault(row) is None]
    existing = frozenset(map(label_key, [*(row["annotation"] for row in usable), *(existing_labels or ())]))
    settings = [
        similarity.name, corrector.name, scorer.name if scorer else None, threshold, iou_threshold, candidates,
        content_hash(sorted(existing)),
    ]  # fmt: skip
    prints = {row["id"]: content_hash([settings, *(row.get(key) for key in INPUT_KEYS)])[:16] for row in rows}
    done = {r["id"]: r for r in read_jsonl(out_path) if prints.get(r.get("id"), "") == r.get("fingerprint")}
    if done:
        logger.info("Reflective Correction: %d of %d rows are recorded already.", len(done), len(rows))

    def record(found: list[dict[str, Any]]) -> None:
        for each in found:
            each["fingerprint"] = prints[each["id"]]
            done[each["id"]] = each
        append_jsonl(out_path, found)

    unusable = [row for row in rows if _fault(row) and row["id"] not in done]
    record([record_of(row, None, "rejected", reason=_fault(row)) for row in unusable])
    pending: dict[str, tuple[Row, Verdict]] = {}
    for start in range(0, len(usable), JUDGE_BLOCK):
        block = usable[start : start + JUDGE_BLOCK]
        if any(row["id"] not in done for row in block):
            verdicts = judge(block, similarity, threshold=threshold, iou_threshold=iou_threshold)
            fresh = [(row, v) for row, v in zip(block, verdicts, strict=True) if row["id"] not in done]
            record([record_of(row, verdict, "kept") for row, verdict in fresh if not verdict["needs_correction"]])
            pending |= {row["id"]: (row, verdict) for row, verdict in fresh if verdict["needs_correction"]}
        tell("judge", start + len(block), len(usable))

    usage_path = out_path.with_suffix(".usage.json")
    corrector.start_round(Usage(**read_json(usage_path)) if done and usage_path.exists() else Usage())
    against = Validation(similarity, threshold, existing, prompt_runs(corrector.prompt_text), candidates, scorer)
    total = len(pending)
    tell("correct", 0, total)
    with closing(_results(corrector, pending)) as groups:
        for group in groups:
            if group:
                record([corrected_record(*pending.pop(result.id), result, against) for result in group])
                write_json(usage_path, corrector.usage.as_dict())
            tell("correct", total - len(pending), total)

    ordered = [done[row["id"]] for row in rows]
    write_jsonl(out_path, ordered)
    summary = summarise(ordered, corrector.usage, token_prices)
    logger.info(
        "Reflective Correction: %d rows, %d kept, %d corrected, %d rejected; %d requests, %d + %d tokens%s.",
        summary.rows, summary.kept, summary.corrected, summary.rejected, *corrector.usage.as_dict().values(),
        f", cost {summary.usage['cost']:.4f}" if token_prices else "",
    )  # fmt: skip
    return summary


def _check_ids(rows: Sequence[Row]) -> None:
    seen = set()
    for number, row in enumerate(rows):
        if not isinstance(row.get("id"), str) or not row["id"]:
            raise ValueError(f"Row {number} has the id {row.get('id')!r}: expected a non-empty string.")
        if row["id"] in seen:
            raise ValueError(f"The id {row['id']!r} occurs twice (again in row {number}): give every row its own.")
        seen.add(row["id"])


def _fault(row: Row) -> str | None:
    """Why a row cannot be judged, or None."""
    for key in ("question", "annotation", "response"):
        if not isinstance(row.get(key), str):
            return f"unusable: {key} is {type(row.get(key)).__name__}, expected a string"
    return None if row["annotation"].strip() else "unusable: annotation is empty"


def _results(corrector: Corrector, pending: Mapping[str, tuple[Row, Verdict]]) -> Iterator[list[CorrectionResult]]:
    """The corrector's results, held to one an item."""
    if not pending:
        return
    items = [
        CorrectionItem(row["id"], row["question"], row["annotation"], row["response"]) for row, _ in pending.values()
    ]
    open_ids = set(pending)
    with closing(corrector.correct(items)) as groups:
        for group in groups:
            for result in group:
                if result.id not in open_ids:
                    raise RuntimeError(f"The corrector {corrector.name} answered {result.id!r} twice or unasked.")
                open_ids.remove(result.id)
            yield group
    if open_ids:
        raise RuntimeError(f"The corrector {corrector.name} left {len(open_ids)} rows unanswered.")
