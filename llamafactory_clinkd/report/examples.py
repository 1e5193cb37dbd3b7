# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Examples in the page: answers, pseudo-labels and attention maps, and the rounds of Reflective Correction."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..data.coordinates import IMAGE_MAX_PIXELS, drawing_frame
from ..evaluate.grounding import grounding_counts, label_found
from ..evaluate.vqa import CLOSED, answer_type
from ..utils.boxes import TAGS, TASKS, VQA, Box, convert_tags, iou_matrix, parse_boxes, sort_modalities, to_thousandths
from . import figures
from .excerpts import MAX_SIDE, Picture, Segment, added_words, embed, find_image, image_label, sample_rows, segments
from .load import CorrectionRound, RunData
from .outcomes import row_quality


MAX_ATTENTION_MAPS = 12
EXTREMES = 3  # best and worst answers
CORRECTIONS_OF_STATUS = {"corrected": 3, "rejected": 1, "kept": 1}  # examples of each round, in this order


class Outline(NamedTuple):
    """A box as an SVG path over the image, in thousandths of its width and height."""

    kind: str  # ``query`` (in the question), ``true`` or ``predicted``
    path: str
    title: str
    run: int = 0  # index of the run that predicted it


class Candidate(NamedTuple):
    """A generated answer."""

    rank: int
    segments: list[Segment]
    score: float | None


class Answer(NamedTuple):
    """One run's answer, its verdict by the task's metric, and the candidates it was selected from."""

    run: int
    name: str
    segments: list[Segment]
    verdict: str
    right: bool | None
    candidates: list[Candidate]
    scorer: str | None
    error: str | None


class Example(NamedTuple):
    """A question with its image; ``problem`` is the reason why there is no picture."""

    pick: str  # ``sample``, ``best`` or ``worst``
    image: str  # its name
    frame: tuple[float, float]  # width and height to which its boxes refer
    modality: str
    question: list[Segment]
    truth: list[Segment]
    picture: Picture | None
    problem: str | None
    outlines: list[Outline]
    answers: list[Answer]


def make_examples(runs: Sequence[RunData], task: str, count: int, seed: int) -> list[Example]:
    """Up to ``count`` examples of one task, a seeded choice over its modalities; only questions that all runs have.

    The best and the worst :data:`EXTREMES` answers of the first run follow; none is best with a score of 0.
    """
    answers = {
        index: {_question_key(row): row for row in run.predictions if row["task"] == task}
        for index, run in enumerate(runs)
        if run.predictions
    }
    if not answers:
        return []
    first = min(answers)
    shared = [row for key, row in answers[first].items() if all(key in rows for rows in answers.values())]
    chosen = sample_rows(shared, count, group=lambda row: row["modality"], seed=f"{seed} {task}")
    order = sort_modalities(row["modality"] for row in chosen)
    picked = [(row, "sample") for row in sorted(chosen, key=lambda row: order.index(row["modality"]))]
    ranked = sorted((row for row in shared if row not in chosen), key=row_quality)
    picked += [(row, "best") for row in ranked[::-1][:EXTREMES] if row_quality(row) > 0]
    picked += [(row, "worst") for row in ranked[: min(EXTREMES, len(ranked) - EXTREMES)]]
    examples = []
    for row, pick in picked:
        example = _example(row, runs[first], pick)
        for index, rows in answers.items():
            name, label = runs[index].name, f"predicted by {runs[index].name}"
            if len(runs) == 1:
                name, label = "Answer", "predicted box"
            answer = rows[_question_key(row)]
            boxes = parse_boxes(answer["response"])
            example.outlines.extend(outlines("predicted", label, boxes, example.frame, index))
            example.answers.append(_answer(index, name, answer))
        examples.append(example)
    return examples


def outlines(
    kind: str, label: str, boxes: Sequence[Box], frame: tuple[float, float] = (1000, 1000), run: int = 0
) -> list[Outline]:
    """Boxes as paths: unlike a ``rect``, a path without width or height stays visible as a line.

    Their coordinates refer to the width and height of ``frame``; the title has the numbers as they are written.
    """
    titles = ["{} ({:g},{:g}),({:g},{:g})".format(label, *box) for box in boxes]
    paths = ["M{0:g} {1:g}H{2:g}V{3:g}H{0:g}Z".format(*box) for box in to_thousandths(boxes, frame)]
    return [Outline(kind, path, title, run) for path, title in zip(paths, titles, strict=True)]


def pseudo_label_examples(run: RunData, seed: int) -> dict[str, Any] | None:
    """Counts and examples of the teacher's answers; None without any."""
    rows = [row for row in run.pseudo_labels if isinstance(row, dict)]
    if not rows:
        return None
    chosen = sample_rows(rows, len(TASKS), group=lambda row: str(row.get("task")), seed=seed)
    columns = ("question", "pseudo_label", "annotation")
    return {
        "rows": len(rows),
        "labelled": sum(row.get("pseudo_label") is not None for row in rows),
        "examples": [(row.get("task"), *(segments(row.get(key)) for key in columns)) for row in chosen],
    }


def attention_maps(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """The first attention maps, embedded; an unreadable file has a ``problem`` instead of a ``picture``."""
    maps = []
    titled = [
        (f"{run.name}: {path.stem}" if len(runs) > 1 else path.stem, path) for run in runs for path in run.attention
    ]
    for title, path in titled[:MAX_ATTENTION_MAPS]:
        picture, problem = _embed_or_problem(path, 900)
        maps.append({"title": title, "picture": picture, "problem": problem})
    return maps


def round_views(runs: Sequence[RunData], seed: int) -> list[dict[str, Any]]:
    """The counts of every round of every run; only the first run with rounds has examples, chosen by ``seed``."""
    first = next((run for run in runs if run.rounds), None)
    views = []
    rounds = [(run, correction_round) for run in runs for correction_round in run.rounds]
    for run, correction_round in rounds:
        summary = correction_round.summary or {}
        counted = Counter(row.get("status") for row in correction_round.rows)
        views.append(
            {
                "title": f"Round {correction_round.number}" + (f", {run.name}" if len(runs) > 1 else ""),
                "counts": {status: summary.get(status, counted[status]) for status in figures.STATUS_COLOURS},
                "causes": [summary.get(key) or {} for key in ("reasons", "rejections", "usage")],
                "finished": correction_round.summary is not None,
                "examples": _correction_examples(correction_round, seed) if run is first else [],
            }
        )
    return views


def rounds_figure(rounds: Sequence[dict[str, Any]]) -> str | None:
    """The counts of all rounds as stacked bars, None without a round."""
    bars = [(view["title"], view["counts"]) for view in rounds]
    texts = [f"{title}: " + ", ".join(f"{n} {status}" for status, n in counts.items()) for title, counts in bars]
    return figures.status_bars(bars, "rounds", f"Rows of each round. {'; '.join(texts)}.") if bars else None


def _embed_or_problem(path: Path, max_side: int = MAX_SIDE) -> tuple[Picture | None, str | None]:
    """The embedded image, or the reason why it cannot be read."""
    try:
        return embed(path, max_side), None
    except ValueError as error:
        return None, f"{error}."


def _question_key(row: dict[str, Any]) -> tuple[str, str, str]:
    """Identifies a question; several questions about one image may share an id."""
    return str(row["id"]), row["question"], row["annotation"]


def _example(row: dict[str, Any], run: RunData, pick: str) -> Example:
    if path := find_image(row["image"], run.folder, run.image_dir):
        picture, problem = _embed_or_problem(path)
    else:
        picture = None
        problem = (
            f"The image {row['image']} was not found: name its folder with --image-dir."
            if row["image"]
            else "The row names no image."
        )
    limit = run.setting("image_max_pixels") or IMAGE_MAX_PIXELS
    frame = drawing_frame(run.box_unit, picture.size, limit) if picture else (1000, 1000)
    boxes = outlines("query", "region in the question", parse_boxes(row["question"]), frame)
    boxes += outlines("true", "true box", parse_boxes(row["annotation"]), frame)
    question, truth, name = segments(row["question"]), segments(row["annotation"]), image_label(row["image"] or "")
    return Example(pick, name, frame, row["modality"], question, truth, picture, problem, boxes, answers=[])


def _answer(index: int, name: str, row: dict[str, Any]) -> Answer:
    candidates = [_candidate(candidate, rank) for rank, candidate in enumerate(row["candidates"], start=1)]
    candidates.sort(key=lambda candidate: candidate.rank)
    if len(candidates) == 1 and candidates[0].score is None:
        candidates = []
    return Answer(index, name, segments(row["response"]), *_verdict(row), candidates, row["scorer"], row["error"])


def _candidate(candidate: Any, position: int) -> Candidate:
    """A candidate of any form: ``{"text", "score", "rank"}``, incomplete or malformed, or a text."""
    values = candidate if isinstance(candidate, dict) else {"text": candidate}
    rank, score = values.get("rank"), values.get("score")
    rank = rank if isinstance(rank, int) else position
    return Candidate(rank, segments(values.get("text")), float(score) if isinstance(score, int | float) else None)


def _verdict(row: dict[str, Any]) -> tuple[str, bool | None]:
    """The verdict of the task's metric on one answer; captions are scored over many rows and have none."""
    if row["task"] == "VG":
        predicted = parse_boxes(row["response"])
        if not predicted:
            return "no box", False
        matched, targets = grounding_counts(row["annotation"], row["response"])
        best = iou_matrix(parse_boxes(row["annotation"]), predicted).max(axis=1)
        values = ", ".join(f"{value:.2f}" for value in best[:4]) + (" …" if len(best) > 4 else "")
        return ("" if targets == 1 else f"{matched} of {targets} found, ") + f"IoU {values}", matched == targets
    if row["task"] == "ROC":
        right = label_found(row["annotation"], row["response"])
        return ("label found" if right else "label not found"), right
    if row["task"] == VQA and answer_type(row) == CLOSED:
        return "closed question", row_quality(row) == 1
    return f"words in common (F1): {100 * row_quality(row):.0f} %", None


def _correction_examples(correction_round: CorrectionRound, seed: int) -> list[dict[str, Any]]:
    """A seeded choice of rows of each status, one from each reason in turn."""
    rows, seed_text = [], f"{seed} round {correction_round.number}"
    for status, count in CORRECTIONS_OF_STATUS.items():
        of_status = [row for row in correction_round.rows if row.get("status") == status]
        rows += sample_rows(of_status, count, group=lambda row: str(row.get("reason")), seed=seed_text)
    return [_correction_example(row) for row in rows]


def _correction_example(row: dict[str, Any]) -> dict[str, Any]:
    """The student's answer, and the corrected wording with the words that it adds to the ground truth marked."""
    truth, corrected, similarity = row.get("annotation"), row.get("corrected"), row.get("similarity")
    reasons = Counter(reason for candidate in row.get("candidates") or [] for reason in candidate.get("reasons") or [])
    changes = added_words(_without_tags(truth), _without_tags(corrected)) if isinstance(corrected, str) else None
    return {
        "status": str(row.get("status")),
        "question": segments(row.get("question")),
        "answer": segments(row.get("response")),
        "truth": segments(truth),
        "corrected": changes,
        "similarity": similarity if isinstance(similarity, int | float) else None,
        "reason": str(row.get("reason") or ""),
        "why_rejected": row.get("error") or ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common()),
    }


def _without_tags(text: Any) -> str:
    """A text without its tags, the coordinates kept; empty if it is no text."""
    plain = convert_tags(text, "qwen_vl") if isinstance(text, str) else ""
    for tag in TAGS["qwen_vl"].values():
        plain = plain.replace(tag, " ")
    return " ".join(plain.split())
