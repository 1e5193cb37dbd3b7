# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0


"""What grounding scores without looking: the mean box of each structure in the training data."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..utils.boxes import Box, has_box, parse_boxes, strip_boxes
from .predictions import read_rows
from .scoring import evaluate_predictions


_REFERRED = re.compile(r"(?:<ref>|<\|object_ref_start\|>)(.*?)(?:</ref>|<\|object_ref_end\|>)", re.DOTALL)
_ASKING = set(
    "a an and any are at be bounding box boxes can coordinates could detect does do find for from give given "
    "highlight identify image images in indicate is it its locate located location mark me of on out outline "
    "picture please point position present provide region scan see show shown tell that the there this to visible "
    "what where which you".split()
)
_PLANE = re.compile(r"(axial|transverse|sagittal|coronal)", re.IGNORECASE)


def mean_box_baseline(train_rows: Iterable[Any], test_rows: Iterable[Any], *, seed: int = 0) -> dict[str, Any]:
    """Recall@0.5 of always answering the mean training box of the structure asked for, in its plane and modality.

    A key is (structure, plane, modality): the structure is the tagged reference of the question, else its words
    without those of asking; the plane is the row's ``plane``, else the one that question or image name tells. A test
    row whose key has no training box gets the mean of all training boxes.

    Args:
        train_rows: Rows with ``question``, ``annotation``, ``image``; those without a box in the annotation are passed
            by.
        test_rows: Rows alike; only their VG rows are evaluated.
        seed: Seed of the confidence intervals.

    Returns:
        VG's part of the metrics (see :func:`.evaluate.evaluate_predictions`), with ``keys``, the number of keys seen
        in training, and ``fallback``, the number of test rows that got the mean of all.

    Raises:
        ValueError: If there is no training box or no test row to ground.
    """
    boxes: dict[tuple[str, str, str], list[Box]] = defaultdict(list)
    for key, row in _grounding_rows(train_rows):
        boxes[key] += parse_boxes(row["annotation"])
    if not boxes:
        raise ValueError("No training row has a box in its annotation: there is no mean box.")
    overall = np.mean([box for found in boxes.values() for box in found], axis=0)
    means = {key: np.mean(found, axis=0) for key, found in boxes.items()}

    predictions, fallback = [], 0
    for key, row in _grounding_rows(test_rows):
        fallback += key not in means
        x1, y1, x2, y2 = means.get(key, overall)
        predictions.append({**row, "response": f"({x1:.3f},{y1:.3f}),({x2:.3f},{y2:.3f})"})
    if not predictions:
        raise ValueError("No test row asks for a box: there is nothing to ground.")
    metrics = evaluate_predictions(predictions, seed=seed)["tasks"]["VG"]
    return {**metrics, "keys": len(means), "fallback": fallback}


def structure_of(question: str) -> str:
    """The structure that a question refers to: its tagged reference, else its words without those of asking."""
    tagged = _REFERRED.search(question)
    words = re.findall(r"[^\W_]+", strip_boxes(tagged[1] if tagged else question).lower())
    return " ".join(words if tagged else (word for word in words if word not in _ASKING))


def _grounding_rows(rows: Iterable[Any]) -> Iterable[tuple[tuple[str, str, str], dict[str, Any]]]:
    """Yields (key, row) of each row whose question has no box and whose annotation has one."""
    rows = [row for row in rows if isinstance(row, dict)]
    planes = [row.get("plane") for row in rows]
    numbered = [{**row, "id": number} for number, row in enumerate(rows)]
    for row in read_rows(numbered).rows:
        if row["task"] == "VG" and not has_box(row["question"]):
            plane = planes[row["id"]]
            if not isinstance(plane, str):
                named = _PLANE.search(f"{row['question']} {row['image']}")
                plane = named[1] if named else ""
            yield (structure_of(row["question"]), plane.lower(), row["modality"]), row
