# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Example answers: a question with its image, the boxes over it, and every run's answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..evaluate.grounding import grounding_counts, label_found
from ..utils.boxes import TASKS, Box, iou_matrix, parse_boxes, sort_modalities
from .excerpts import Picture, Segment, embed, find_image, sample_rows, segments
from .load import RunData


MAX_ATTENTION_MAPS = 12


@dataclass(frozen=True)
class Outline:
    """A box as an SVG path over the image, in thousandths of its width and height.

    ``kind`` is ``query`` (in the question), ``true`` or ``predicted``, then by the run with index ``run``.
    """

    kind: str
    path: str
    title: str
    run: int = 0


@dataclass(frozen=True)
class Candidate:
    """A generated answer with its rank."""

    rank: int
    segments: list[Segment]
    score: float | None


@dataclass(frozen=True)
class Answer:
    """One run's answer, its verdict by the task's metric, and the candidates it was selected from."""

    run: int
    name: str
    segments: list[Segment]
    verdict: str
    right: bool | None
    candidates: list[Candidate]
    scorer: str | None
    error: str | None


@dataclass
class Example:
    """A question with its image; ``problem`` is the reason why there is no picture."""

    modality: str
    question: list[Segment]
    truth: list[Segment]
    picture: Picture | None
    problem: str | None
    outlines: list[Outline] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    @property
    def description(self) -> str:
        """The image's alternative text."""
        boxes = "; ".join(outline.title for outline in self.outlines)
        return f"{self.modality} image of this question. {f'Boxes: {boxes}' if boxes else 'No boxes.'}"


def make_examples(runs: Sequence[RunData], task: str, count: int, seed: int) -> list[Example]:
    """Up to ``count`` examples of one task, a seeded choice over its modalities; only questions that all runs have."""
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
    examples = []
    for row in sorted(chosen, key=lambda row: order.index(row["modality"])):
        example = _example(row, runs[first])
        for index, rows in answers.items():
            name, label = "Answer", "predicted box"
            if len(runs) > 1:
                name, label = runs[index].name, f"predicted by {runs[index].name}"
            answer = rows[_question_key(row)]
            example.outlines += outlines("predicted", label, parse_boxes(answer["response"]), index)
            example.answers.append(_answer(index, name, answer))
        examples.append(example)
    return examples


def outlines(kind: str, label: str, boxes: Sequence[Box], run: int = 0) -> list[Outline]:
    """Boxes as paths: unlike a ``rect``, a path without width or height stays visible as a line."""
    return [
        Outline(
            kind,
            f"M{box.x1:g} {box.y1:g}H{box.x2:g}V{box.y2:g}H{box.x1:g}Z",
            f"{label} ({box.x1:g},{box.y1:g}),({box.x2:g},{box.y2:g})",
            run,
        )
        for box in boxes
    ]


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
    paths = [(run, path) for run in runs for path in run.attention]
    for run, path in paths[:MAX_ATTENTION_MAPS]:
        title = f"{run.name}: {path.stem}" if len(runs) > 1 else path.stem
        try:
            maps.append({"title": title, "picture": embed(path, 900), "problem": None})
        except ValueError as error:
            maps.append({"title": title, "picture": None, "problem": str(error)})
    return maps


def _question_key(row: dict[str, Any]) -> tuple[str, str, str]:
    """Identifies a question; several questions about one image may share an id."""
    return str(row["id"]), row["question"], row["annotation"]


def _example(row: dict[str, Any], run: RunData) -> Example:
    picture, problem = None, None
    path = find_image(row["image"], run.folder)
    if path is None:
        problem = f"The image {row['image']} was not found." if row["image"] else "The row names no image."
    else:
        try:
            picture = embed(path)
        except ValueError as error:
            problem = f"{error}."
    boxes = outlines("query", "region in the question", parse_boxes(row["question"]))
    boxes += outlines("true", "true box", parse_boxes(row["annotation"]))
    return Example(
        row["modality"], segments(row["question"]), segments(row["annotation"]), picture, problem, outlines=boxes
    )


def _answer(index: int, name: str, row: dict[str, Any]) -> Answer:
    candidates = [_candidate(candidate, rank) for rank, candidate in enumerate(row["candidates"], start=1)]
    if len(candidates) == 1 and candidates[0].score is None:
        candidates = []
    candidates.sort(key=lambda candidate: candidate.rank)
    verdict, right = _verdict(row)
    return Answer(index, name, segments(row["response"]), verdict, right, candidates, row["scorer"], row["error"])


def _candidate(candidate: Any, position: int) -> Candidate:
    """A candidate of any form: ``{"text", "score", "rank"}``, incomplete or malformed, or a text."""
    values = candidate if isinstance(candidate, dict) else {"text": candidate}
    rank, score = values.get("rank"), values.get("score")
    return Candidate(
        rank if isinstance(rank, int) else position,
        segments(values.get("text")),
        float(score) if isinstance(score, int | float) else None,
    )


def _verdict(row: dict[str, Any]) -> tuple[str, bool | None]:
    """The verdict of the task's metric on one answer; captions are scored over many rows and have none."""
    if row["task"] == "VG":
        predicted = parse_boxes(row["response"])
        if not predicted:
            return "no box", False
        matched, targets = grounding_counts(row["annotation"], row["response"])
        best = iou_matrix(parse_boxes(row["annotation"]), predicted).max(axis=1)
        values = ", ".join(f"{value:.2f}" for value in best[:4]) + (" …" if len(best) > 4 else "")
        text = f"IoU {values}" if targets == 1 else f"{matched} of {targets} found, IoU {values}"
        return text, matched == targets
    if row["task"] == "ROC":
        right = label_found(row["annotation"], row["response"])
        return ("label found" if right else "label not found"), right
    return "", None
