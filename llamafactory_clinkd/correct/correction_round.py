# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One round of Reflective Correction (section 3.3, Figure 2): judge, correct, validate, keep the best, record.

``docs/correction.md`` documents the record, one line of ``corrections/round-N.jsonl`` for each row. Lines are appended
as soon as a row is decided, and finally rewritten in the order of the input. A restarted run skips a row whose line
has the same fingerprint of row, settings and models. Rows are judged in fixed blocks and validated one by one, so that
scores do not depend on where a run was interrupted.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ..utils.io import append_jsonl, content_hash, read_json, read_jsonl, write_json, write_jsonl
from .corrector import CorrectionItem, CorrectionResult, Corrector, Usage
from .judge import Verdict, judge
from .rewording_validation import (
    candidate_similarities,
    is_too_long,
    label_key,
    prompt_runs,
    rejection_reasons,
    text_reasons,
)
from .similarity import Similarity


logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
Progress = Callable[[str, int, int], None]  # stage (``judge`` or ``correct``), its finished rows, all its rows
INPUT_KEYS = ("id", "image", "question", "annotation", "response")
RECORDED_CHARACTERS = 2000  # of a rejected candidate
JUDGE_BLOCK = 1024


class CandidateScorer(Protocol):
    """Scores candidates against the image; its score is added to the similarity when the best one is chosen."""

    name: str

    def scores(self, image: Any, texts: Sequence[str]) -> list[float]:
        """The score of each text for one row's ``image``."""


@dataclass(frozen=True)
class RoundSummary:
    """Counts of a whole round; ``kept + corrected + rejected == rows``."""

    rows: int
    kept: int
    corrected: int
    rejected: int
    reasons: dict[str, int]  # rows by the reason of their verdict
    rejections: dict[str, int]
    """Rejected rows by cause: the corrector's error, or each reason for which a candidate was rejected."""
    usage: dict[str, float]
    """Requests and tokens of the whole round, interrupted runs included; ``cost`` where prices are known."""

    def as_dict(self) -> dict[str, Any]:
        """The summary as a plain dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class _Validation:
    """What the candidates of a round are validated against."""

    similarity: Similarity
    threshold: float
    existing: frozenset[str]
    leaks: frozenset[tuple[str, ...]]
    max_candidates: int
    scorer: CandidateScorer | None


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
        candidates: At most this many candidates of a row are considered.
        out_path: ``corrections/round-N.jsonl``; ``round-N.usage.json`` beside it holds requests and tokens.
        existing_labels: Labels that no candidate may equal, beside all the rows' own ground truths.
        scorer: Adds its score to the similarity when the best candidate is chosen.
        token_prices: Of a million prompt and a million completion tokens; the cost is then logged and recorded.
        progress: Called as the round advances; an exception that it raises stops the round.

    Raises:
        ValueError: If an id is missing or occurs twice; the message names it.
        RuntimeError: If the corrector returns two results for an item, none, or one for an unknown item.
    """
    out_path, report = Path(out_path), progress or (lambda stage, done, total: None)
    _check_ids(rows)
    usable = [row for row in rows if _problem(row) is None]
    existing = frozenset(map(label_key, [*(row["annotation"] for row in usable), *(existing_labels or ())]))
    settings = [
        similarity.name, corrector.name, scorer.name if scorer else None, threshold, iou_threshold, candidates,
        content_hash(sorted(existing)),
    ]  # fmt: skip
    fingerprints = {row["id"]: content_hash([settings, *(row.get(key) for key in INPUT_KEYS)])[:16] for row in rows}
    same = [r for r in read_jsonl(out_path) if fingerprints.get(r.get("id"), "") == r.get("fingerprint")]
    records = {record["id"]: record for record in same if is_usable(record)}
    if records:
        logger.info("Reflective Correction: %d of %d rows are recorded already.", len(records), len(rows))

    def save(new_records: list[dict[str, Any]]) -> None:
        new_records = [{**record, "fingerprint": fingerprints[record["id"]]} for record in new_records]
        records.update({record["id"]: record for record in new_records})
        append_jsonl(out_path, new_records)

    problems = [(row, problem) for row in rows if (problem := _problem(row)) and row["id"] not in records]
    save([_record(row, None, "rejected", reason=problem) for row, problem in problems])
    pending: dict[str, tuple[Row, Verdict]] = {}
    for start in range(0, len(usable), JUDGE_BLOCK):
        block = usable[start : start + JUDGE_BLOCK]
        if any(row["id"] not in records for row in block):
            verdicts = judge(block, similarity, threshold=threshold, iou_threshold=iou_threshold)
            new = [(row, verdict) for row, verdict in zip(block, verdicts, strict=True) if row["id"] not in records]
            save([_record(row, verdict, "kept") for row, verdict in new if not verdict["needs_correction"]])
            pending |= {row["id"]: (row, verdict) for row, verdict in new if verdict["needs_correction"]}
        report("judge", start + len(block), len(usable))

    usage_path = out_path.with_suffix(".usage.json")
    corrector.start_round(Usage(**read_json(usage_path)) if records and usage_path.exists() else Usage())
    validation = _Validation(similarity, threshold, existing, prompt_runs(corrector.prompt_text), candidates, scorer)
    items = [CorrectionItem(*(row[key] for key in CorrectionItem._fields)) for row, _ in pending.values()]
    corrector_name = f"The corrector {corrector.name}"
    report("correct", 0, len(items))
    if items:
        with closing(corrector.correct(items)) as groups:
            for group in groups:
                new_records = []
                for result in group:
                    if result.id not in pending:
                        raise RuntimeError(f"{corrector_name} returned {result.id!r} twice or unrequested.")
                    new_records.append(_corrected_record(*pending.pop(result.id), result, validation))
                if new_records:
                    save(new_records)
                    write_json(usage_path, corrector.usage.as_dict())
                report("correct", len(items) - len(pending), len(items))
    if pending:
        raise RuntimeError(f"{corrector_name} left {len(pending)} rows unanswered.")

    ordered = [records[row["id"]] for row in rows]
    write_jsonl(out_path, ordered)
    summary = _summarise(ordered, corrector.usage, token_prices)
    logger.info(
        "Reflective Correction: %d rows, %d kept, %d corrected, %d rejected; %d requests, %d + %d tokens%s.",
        summary.rows, summary.kept, summary.corrected, summary.rejected, *corrector.usage.as_dict().values(),
        f", cost {summary.usage['cost']:.4f}" if token_prices else "",
    )  # fmt: skip
    return summary


def is_usable(record: Row) -> bool:
    """Whether a record's rewording, if it has one, may still be trained on: an older version may have recorded it."""
    return record["status"] != "corrected" or not text_reasons(record["corrected"], record["annotation"])


def _check_ids(rows: Sequence[Row]) -> None:
    ids = set()
    for number, row in enumerate(rows):
        if not isinstance(row.get("id"), str) or not row["id"]:
            raise ValueError(f"Row {number} has the id {row.get('id')!r}: expected a non-empty string.")
        if row["id"] in ids:
            raise ValueError(f"The id {row['id']!r} occurs twice (again in row {number}): give every row its own.")
        ids.add(row["id"])


def _problem(row: Row) -> str | None:
    """Why a row cannot be judged, or None."""
    for key in ("question", "annotation", "response"):
        if not isinstance(value := row.get(key), str):
            return f"unusable: {key} is {type(value).__name__}, expected a string"
    return None if row["annotation"].strip() else "unusable: annotation is empty"


def _record(row: Row, verdict: Verdict | None, status: str, **changes: Any) -> dict[str, Any]:
    """A record, still without its fingerprint; ``changes`` replace default values."""
    inputs = {key: row.get(key) for key in INPUT_KEYS}
    judged = verdict or {"similarity": None, "grounding": None, "iou": [], "needs_correction": True, "reason": None}
    outcome = {"status": status, "corrected": None, "error": None, "candidates": []}
    return {**inputs, **judged, **outcome, **changes}


def _corrected_record(row: Row, verdict: Verdict, result: CorrectionResult, validation: _Validation) -> dict[str, Any]:
    """Validates the corrector's candidates for a row and records the best one."""
    texts = result.candidates[: validation.max_candidates]
    source = {"annotation": row["annotation"], "question": row["question"]}
    faults = {text: text_reasons(text, row["annotation"]) for text in texts}
    scored = [text for text in texts if text.strip() and not faults[text] and not is_too_long(text, row["annotation"])]
    scores = candidate_similarities(scored, **source, similarity=validation.similarity)
    similarities = dict(zip(scored, scores, strict=True))
    candidates = []
    for text in texts:
        score = similarities.get(text, 0.0)
        reasons = faults[text] or rejection_reasons(
            text, **source, similarity=score, threshold=validation.threshold, existing=validation.existing,
            leaks=validation.leaks,
        )  # fmt: skip
        recorded = text[:RECORDED_CHARACTERS] if reasons else text
        codes = {"reasons": list(reasons), "details": reasons}
        candidates.append({"text": recorded, "similarity": score, "score": score, **codes})

    passed = [candidate for candidate in candidates if not candidate["reasons"]]
    if passed and validation.scorer is not None:
        image_scores = validation.scorer.scores(row.get("image"), [candidate["text"] for candidate in passed])
        for candidate, image_score in zip(passed, image_scores, strict=True):
            candidate["score"] += image_score
    outcome = {"error": result.error, "candidates": candidates}
    if not passed:
        return _record(row, verdict, "rejected", **outcome)
    best = max(passed, key=lambda candidate: candidate["score"])  # the first of equals
    return _record(row, verdict, "corrected", corrected=best["text"], **outcome)


def _summarise(records: Sequence[Row], usage: Usage, prices: Sequence[float] | None) -> RoundSummary:
    statuses = Counter(record["status"] for record in records)
    rejections: Counter[str] = Counter()
    for record in records:
        if record["status"] == "rejected":
            reasons = {reason for candidate in record["candidates"] for reason in candidate["reasons"]}
            cause = record["error"] or ("unusable" if record["similarity"] is None else "no_candidates")
            rejections.update(reasons or {cause})
    return RoundSummary(
        rows=len(records),
        **{status: statuses[status] for status in ("kept", "corrected", "rejected")},
        reasons=dict(sorted(Counter(record["reason"].partition(":")[0] for record in records).items())),
        rejections=dict(sorted(rejections.items())),
        usage=usage.as_dict() | ({} if prices is None else {"cost": usage.cost(prices)}),
    )
