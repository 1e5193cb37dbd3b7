# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The mean-box baseline: the grounding score without the image, from the mean training box of each structure."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..utils.boxes import Box, has_box, parse_boxes, strip_boxes
from .predictions import read_rows
from .scoring import evaluate_predictions


_REFERENCE = re.compile(r"(?:<ref>|<\|object_ref_start\|>)(.*?)(?:</ref>|<\|object_ref_end\|>)", re.DOTALL)
_QUESTION_WORDS = set(
    "a an and any are at be bounding box boxes can coordinates could detect does do find for from give given "
    "highlight identify image images in indicate is it its locate located location mark me of on out outline "
    "picture please point position present provide region scan see show shown tell that the there this to visible "
    "what where which you".split()
)
_PLANE = re.compile(r"(axial|transverse|sagittal|coronal)", re.IGNORECASE)


def mean_box_baseline(train_rows: Iterable[Any], test_rows: Iterable[Any], *, seed: int = 0) -> dict[str, Any]:
    """Recall@0.5 of answering each test question with the mean training box of its structure, plane and modality.

    The structure is that of :func:`structure_of`; the plane is the row's ``plane``, else the one named in the question
    or the image name. A test row whose key has no training box gets the mean of all training boxes. Rows of other
    tasks than VG are ignored. ``seed`` is that of the confidence intervals.

    Returns:
        The metrics of VG (see :func:`.scoring.evaluate_predictions`), with the numbers of ``keys`` in training and of
        test rows with the ``fallback``, the mean of all boxes.

    Raises:
        ValueError: If there is no training box or no test row to ground.
    """
    boxes: dict[tuple[str, str, str], list[Box]] = defaultdict(list)
    for key, row in _grounding_rows(train_rows):
        boxes[key] += parse_boxes(row["annotation"])
    if not boxes:
        raise ValueError("No training row has a box in its annotation: there is no mean box.")
    overall = np.mean([box for group in boxes.values() for box in group], axis=0)
    means = {key: np.mean(group, axis=0) for key, group in boxes.items()}

    predictions, fallback = [], 0
    for key, row in _grounding_rows(test_rows):
        fallback += key not in means
        x1, y1, x2, y2 = means.get(key, overall)
        predictions.append({**row, "response": f"({x1:.3f},{y1:.3f}),({x2:.3f},{y2:.3f})", "candidates": []})
    if not predictions:
        raise ValueError("No test row is a grounding question: there is nothing to ground.")
    metrics = evaluate_predictions(predictions, seed=seed)["tasks"]["VG"]
    return {**metrics, "keys": len(means), "fallback": fallback}


def mean_box_from_facts(
    train_facts: Iterable[Mapping[str, Any]], test_facts: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """:func:`mean_box_baseline` of the demo's ``facts_*.jsonl``, which name the structure and box of each row.

    Every training fact with a ``box`` counts, whatever its task; the test facts whose ``task`` is ``VG`` are answered.
    """

    def rows(facts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                **{"task": "VG", "modality": fact["modality"], "plane": fact["plane"], "image": f"{fact['id']}.png"},
                "question": f"<ref>{fact['structure']}</ref>",
                "annotation": "<box>({},{}),({},{})</box>".format(*fact["box"]),
            }
            for fact in facts
            if "box" in fact
        ]

    return mean_box_baseline(rows(train_facts), rows(fact for fact in test_facts if fact["task"] == "VG"))


def structure_of(question: str) -> str:
    """The structure that a question refers to: its tagged reference, else the question without question words."""
    reference = _REFERENCE.search(question)
    words = re.findall(r"[^\W_]+", strip_boxes(reference[1] if reference else question).lower())
    return " ".join(words if reference else (word for word in words if word not in _QUESTION_WORDS))


def _grounding_rows(rows: Iterable[Any]) -> Iterator[tuple[tuple[str, str, str], dict[str, Any]]]:
    """Yields (key, row) of each row with a box in its annotation and none in its question."""
    rows = [row for row in rows if isinstance(row, dict)]
    for row in read_rows({**row, "id": index} for index, row in enumerate(rows)).rows:
        if row["task"] == "VG" and not has_box(row["question"]):
            plane = rows[row["id"]].get("plane")
            if not isinstance(plane, str):
                plane = next(iter(_PLANE.findall(f"{row['question']} {row['image']}")), "")
            yield (structure_of(row["question"]), plane.lower(), row["modality"]), row
