# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Example cards: one question with its image, the boxes over it, and every run's answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..evaluate.grounding import grounding_counts, label_found
from ..utils.boxes import MODALITIES, Box, iou_matrix, parse_boxes
from ..utils.io import content_hash
from .embedded_images import Picture, embed, find_image
from .load import RunData
from .texts import Segment, segments


@dataclass(frozen=True)
class Outline:
    """A box as it is drawn over the image, whose user space is thousandths of width and height."""

    kind: str
    """``asked`` (in the question), ``true`` or ``predicted``."""
    path: str
    title: str
    run: int = 0
    """Which run predicted it."""


@dataclass(frozen=True)
class Candidate:
    """A generated answer with its place in the ranking."""

    rank: int
    segments: list[Segment]
    score: float | None


@dataclass(frozen=True)
class Answer:
    """One run's answer: what it said, what the metric makes of it, and what it was chosen from."""

    run: int
    name: str
    segments: list[Segment]
    verdict: str
    right: bool | None
    candidates: list[Candidate]
    scorer: str | None
    error: str | None


@dataclass
class Card:
    """One question."""

    task: str
    modality: str
    image: str
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


def make_cards(runs: Sequence[RunData], task: str, wanted: int, seed: int) -> list[Card]:
    """Cards of one task, a seeded choice over its modalities; of several runs, only questions that all answered.

    Args:
        runs: The runs, compared in this order.
        task: One of the four tasks.
        wanted: At most so many cards.
        seed: Seed of the choice.
    """
    answered = [{_key(row): row for row in run.predictions if row["task"] == task} for run in runs if run.predictions]
    places = [number for number, run in enumerate(runs) if run.predictions]
    if not answered:
        return []
    shared = [row for key, row in answered[0].items() if all(key in rows for rows in answered)]
    cards = []
    chosen = sample_rows(shared, wanted, group=lambda row: row["modality"], seed=f"{seed} {task}")
    for row in sorted(chosen, key=lambda row: _place(row["modality"])):
        card = _question_card(row, runs[places[0]])
        for place, rows in zip(places, answered, strict=True):
            _add_answer(card, place, runs, rows[_key(row)])
        cards.append(card)
    return cards


def _place(modality: str) -> int:
    """The place of a modality in the paper's order; others come last."""
    return MODALITIES.index(modality) if modality in MODALITIES else len(MODALITIES)


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    """A question; a row's id alone may stand for several questions about one image."""
    return str(row["id"]), row["question"], row["annotation"]


def _question_card(row: dict[str, Any], run: RunData) -> Card:
    picture, problem = None, None
    path = find_image(row["image"], run.folder)
    if path is None:
        problem = f"The image {row['image']} was not found." if row["image"] else "The row names no image."
    else:
        try:
            picture = embed(path)
        except ValueError as error:
            problem = f"{error}."
    card = Card(
        row["task"],
        row["modality"],
        row["image"],
        segments(row["question"]),
        segments(row["annotation"]),
        picture,
        problem,
    )
    card.outlines += outlines("asked", "asked region", parse_boxes(row["question"]))
    card.outlines += outlines("true", "true box", parse_boxes(row["annotation"]))
    return card


def _add_answer(card: Card, place: int, runs: Sequence[RunData], row: dict[str, Any]) -> None:
    several = len(runs) > 1
    name = runs[place].name if several else "Answer"
    said = f"predicted by {name}" if several else "predicted box"
    card.outlines += outlines("predicted", said, parse_boxes(row["response"]), place)
    verdict, right = _verdict(row)
    found = (
        row["candidates"]
        if len(row["candidates"]) > 1 or any(_score(c) is not None for c in row["candidates"])
        else []
    )
    candidates = [
        Candidate(_rank(candidate, order), segments(_text(candidate)), _score(candidate))
        for order, candidate in enumerate(found, start=1)
    ]
    card.answers.append(
        Answer(
            place, name, segments(row["response"]), verdict, right,
            sorted(candidates, key=lambda candidate: candidate.rank), row["scorer"], row["error"],
        )
    )  # fmt: skip


def outlines(kind: str, label: str, boxes: Sequence[Box], run: int = 0) -> list[Outline]:
    """Boxes as paths; a box without width or height stays visible as a line, which a ``rect`` would not."""
    return [
        Outline(
            kind,
            f"M{box.x1:g} {box.y1:g}H{box.x2:g}V{box.y2:g}H{box.x1:g}Z",
            f"{label} ({box.x1:g},{box.y1:g}),({box.x2:g},{box.y2:g})",
            run,
        )
        for box in boxes
    ]


def _verdict(row: dict[str, Any]) -> tuple[str, bool | None]:
    """What the task's metric makes of one answer; captions are scored over many rows, not one by one."""
    if row["task"] == "VG":
        found, targets = grounding_counts(row["annotation"], row["response"])
        predicted = parse_boxes(row["response"])
        if not predicted:
            return "no box", False
        best = iou_matrix(parse_boxes(row["annotation"]), predicted).max(axis=1)
        values = ", ".join(f"{value:.2f}" for value in best[:4]) + (" …" if len(best) > 4 else "")
        return (f"IoU {values}" if targets == 1 else f"{found} of {targets} found, IoU {values}"), found == targets
    if row["task"] == "ROC":
        right = label_found(row["annotation"], row["response"])
        return ("label found" if right else "label not found"), right
    return "", None


def _text(candidate: Any) -> Any:
    return candidate.get("text") if isinstance(candidate, dict) else candidate


def _score(candidate: Any) -> float | None:
    score = candidate.get("score") if isinstance(candidate, dict) else None
    return float(score) if isinstance(score, int | float) else None


def _rank(candidate: Any, order: int) -> int:
    rank = candidate.get("rank") if isinstance(candidate, dict) else None
    return rank if isinstance(rank, int) else order


def sample_rows(
    rows: Sequence[dict[str, Any]], wanted: int, *, group: Callable[[dict[str, Any]], str], seed: int | str
) -> list[dict[str, Any]]:
    """Up to ``wanted`` rows, one from each group in turn, chosen by a hash of seed and content.

    The choice, and which group has the first turn, depend on the seed, not on the order of the rows nor on how well
    they were answered.
    """
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for row in rows:
        key = content_hash([seed, row.get("id"), row.get("image"), row.get("question"), row.get("annotation")])
        groups.setdefault(group(row), []).append((key, row))
    names = sorted(groups, key=lambda name: content_hash([seed, name]))
    ordered = [sorted(groups[name], key=lambda pair: pair[0]) for name in names]
    turns = [
        members[turn][1]
        for turn in range(max(map(len, ordered), default=0))
        for members in ordered
        if turn < len(members)
    ]
    return turns[:wanted]
