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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..utils.boxes import strip_boxes
from ..utils.io import append_jsonl, content_hash, iter_jsonl, placed_rows, read_json, write_json, write_lines_of
from ..utils.row_index import RowNumbers, Texts, chunks
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
SHORT_WORDS = 3  # a sentence around so few words is not similar to them
SHORT_REJECTED = "short_answers_below_correction_threshold"


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
    """Rejected rows by cause: the corrector's error, or each reason for which a candidate was rejected.

    If the similarity rejects more than half of the wrong answers to labels of at most three words, these rows are
    counted as ``short_answers_below_correction_threshold``, too.
    """
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
    existing_labels: Iterable[str] | None = None,
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
    numbers = _row_numbers(rows)
    annotations = (row["annotation"] for row in rows if _problem(row) is None)
    existing = frozenset(map(label_key, chain(annotations, existing_labels or ())))
    settings = [
        similarity.name, corrector.name, scorer.name if scorer else None, threshold, iou_threshold, candidates,
        content_hash(sorted(existing)),
    ]  # fmt: skip
    hashes = (content_hash([settings, *(row.get(key) for key in INPUT_KEYS)])[:16] for row in rows)
    fingerprints = np.fromiter((int(each, 16) for each in hashes), np.uint64, len(rows))

    offsets = np.full(len(rows), -1)  # of each row's last line that is usable and of the same fingerprint
    for placed in chunks(placed_rows(out_path)):
        found = numbers.find([record.get("id") for _, record in placed])
        for number, (offset, record) in zip(found, placed, strict=True):
            if number >= 0 and record.get("fingerprint") == f"{fingerprints[number]:016x}" and is_usable(record):
                offsets[number] = offset
    done = offsets >= 0
    if done.any():
        logger.info("Reflective Correction: %d of %d rows are recorded already.", done.sum(), len(rows))

    def save(new_records: list[tuple[int, dict[str, Any]]]) -> None:
        lines = ({**record, "fingerprint": f"{fingerprints[n]:016x}"} for n, record in new_records)
        offsets[[n for n, _ in new_records]] = append_jsonl(out_path, lines)

    def usable() -> Iterator[tuple[int, Row]]:
        return ((number, row) for number, row in enumerate(rows) if _problem(row) is None)

    problems = ((number, row) for number, row in enumerate(rows) if not done[number] and _problem(row) is not None)
    for block in chunks(problems, JUDGE_BLOCK):
        save([(number, _record(row, None, "rejected", reason=_problem(row))) for number, row in block])
    pending: dict[str, tuple[int, Row, Verdict]] = {}
    judged, total = 0, sum(1 for _ in usable())
    for block in chunks(usable(), JUDGE_BLOCK):
        if not all(done[number] for number, _ in block):
            verdicts = judge([row for _, row in block], similarity, threshold=threshold, iou_threshold=iou_threshold)
            new = [(*each, verdict) for each, verdict in zip(block, verdicts, strict=True) if not done[each[0]]]
            save([(n, _record(row, verdict, "kept")) for n, row, verdict in new if not verdict["needs_correction"]])
            pending |= {row["id"]: (n, row, verdict) for n, row, verdict in new if verdict["needs_correction"]}
        report("judge", judged := judged + len(block), total)

    usage_path = out_path.with_suffix(".usage.json")
    corrector.start_round(Usage(**read_json(usage_path)) if done.any() and usage_path.exists() else Usage())
    validation = _Validation(similarity, threshold, existing, prompt_runs(corrector.prompt_text), candidates, scorer)
    items = [CorrectionItem(*(row[key] for key in CorrectionItem._fields)) for _, row, _ in pending.values()]
    corrector_name = f"The corrector {corrector.name}"
    report("correct", 0, len(items))
    if items:
        with closing(corrector.correct(items)) as groups:
            for group in groups:
                new_records = []
                for result in group:
                    if result.id not in pending:
                        raise RuntimeError(f"{corrector_name} returned {result.id!r} twice or unrequested.")
                    number, row, verdict = pending.pop(result.id)
                    new_records.append((number, _corrected_record(row, verdict, result, validation)))
                if new_records:
                    save(new_records)
                    write_json(usage_path, corrector.usage.as_dict())
                report("correct", len(items) - len(pending), len(items))
    if pending:
        raise RuntimeError(f"{corrector_name} left {len(pending)} rows unanswered.")

    sources = [out_path] if out_path.exists() else []
    write_lines_of(out_path, sources, ((0, int(offset)) for offset in offsets))
    summary = _summarise(iter_jsonl(out_path), corrector.usage, token_prices)
    logger.info(
        "Reflective Correction: %d rows, %d kept, %d corrected, %d rejected; %d requests, %d + %d tokens%s.",
        summary.rows, summary.kept, summary.corrected, summary.rejected, *corrector.usage.as_dict().values(),
        f", cost {summary.usage['cost']:.4f}" if token_prices else "",
    )  # fmt: skip
    if short := summary.rejections.get(SHORT_REJECTED):
        logger.warning(
            "Reflective Correction: %d wrong answers to labels of at most %d words, over half, were not corrected: no "
            "rewording is as similar to the label as `correction_threshold: %g` requires. A lower value accepts more "
            "rewordings, and more answers as right.", short, SHORT_WORDS, threshold,
        )  # fmt: skip
    return summary


def is_usable(record: Row) -> bool:
    """Whether a record's rewording, if it has one, may still be trained on: an older version may have recorded it."""
    return record["status"] != "corrected" or not text_reasons(record["corrected"], record["annotation"])


def _row_numbers(rows: Sequence[Row]) -> RowNumbers:
    def ids() -> Iterator[str]:
        for number, row in enumerate(rows):
            if not isinstance(row.get("id"), str) or not row["id"]:
                raise ValueError(f"Row {number} has the id {row.get('id')!r}: expected a non-empty string.")
            yield row["id"]

    texts = Texts(ids())
    numbers = RowNumbers(texts)
    if numbers.repeated:
        number = numbers.repeated[0]
        raise ValueError(f"The id {texts[number]!r} occurs twice (again in row {number}): give every row its own.")
    return numbers


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


def _summarise(records: Iterable[Row], usage: Usage, prices: Sequence[float] | None) -> RoundSummary:
    statuses: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    rejections: Counter[str] = Counter()
    short = short_rejected = 0
    for record in records:
        is_judged = record["similarity"] is not None
        is_short = is_judged and 0 < len(strip_boxes(record["annotation"]).split()) <= SHORT_WORDS
        short += is_short and record["status"] != "kept"
        statuses[record["status"]] += 1
        reasons[record["reason"].partition(":")[0]] += 1
        if record["status"] == "rejected":
            rejected = {reason for candidate in record["candidates"] for reason in candidate["reasons"]}
            cause = record["error"] or ("unusable" if record["similarity"] is None else "no_candidates")
            rejections.update(rejected or {cause})
            short_rejected += is_short and "similarity" in rejected
    if short_rejected > short / 2:
        rejections[SHORT_REJECTED] = short_rejected
    return RoundSummary(
        rows=statuses.total(),
        **{status: statuses[status] for status in ("kept", "corrected", "rejected")},
        reasons=dict(sorted(reasons.items())),
        rejections=dict(sorted(rejections.items())),
        usage=usage.as_dict() | ({} if prices is None else {"cost": usage.cost(prices)}),
    )
