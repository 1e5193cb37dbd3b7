# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The blind answer of every task: what is scored without the image, from the training rows and the question alone.

VG is answered by the mean training box of the structure in question, every other task by the most frequent training
answer: to the same question about the same modality, else to the same question, else to a question of the same type
(:func:`_keys`), and so on.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..utils.boxes import TASKS, VQA, Box, has_box, parse_boxes, strip_boxes
from .grounding import references
from .prediction_files import turns_of
from .predictions import read_rows
from .scoring import evaluate_predictions
from .vqa import answer_type


_REFERENCE = re.compile(r"(?:<ref>|<\|object_ref_start\|>)(.*?)(?:</ref>|<\|object_ref_end\|>)", re.DOTALL)
_QUESTION_WORDS = set(
    "a an and any are at be bounding box boxes can coordinates could detect does do find for from give given "
    "highlight identify image images in indicate is it its locate located location mark me of on out outline "
    "picture please point position present provide region scan see show shown tell that the there this to visible "
    "what where which you".split()
)
_PLANE = re.compile(r"(axial|transverse|sagittal|coronal)", re.IGNORECASE)


def blind_scores(
    train_rows: Iterable[Any], test_rows: Iterable[Any], *, seed: int = 0, **options: Any
) -> dict[str, dict[str, Any]]:
    """The scores of the blind answer of each task that both sides have rows of, as ``metrics.json`` has them.

    Rows are those of predictions (their responses are not used) or ShareGPT rows, of which all turns count.
    ``options`` are those of :func:`.scoring.evaluate_predictions`.

    Returns:
        ``blind_<task>`` to the task's entry, with its ``task``.
    """
    train, test = (list(_flat(rows)) for rows in (train_rows, test_rows))
    answered = most_frequent_answers(train, test)
    scores = evaluate_predictions(answered, seed=seed, **options)["tasks"] if answered else {}
    try:
        scores["VG"] = mean_box_baseline(train, test, seed=seed)
    except ValueError:  # one of the sides has no box
        scores.pop("VG", None)
    return {f"blind_{task}": {**scores[task], "task": task} for task in (*TASKS, VQA) if task in scores}


def tasks_without_blind(metrics: Mapping[str, Any], train_rows: Iterable[Any]) -> list[str]:
    """A note if ``metrics``, which have ``baselines``, have tasks that no training row has; else none."""
    without = [task for task in metrics["tasks"] if f"blind_{task}" not in metrics["baselines"]]
    if not without:
        return []
    found = Counter(row["task"] for row in read_rows(_flat(train_rows)).rows)
    counts = ", ".join(f"{task} {count:,}" for task, count in found.most_common()) or "none that can be read"
    return [f"No blind answers of {', '.join(without)}: the training rows are {counts}. Convert both sets alike."]


def most_frequent_answers(train_rows: Iterable[Any], test_rows: Iterable[Any]) -> list[dict[str, Any]]:
    """The test rows of every task but VG, with the most frequent training answer as response.

    Of equally frequent answers the first one in training counts. A row of a task without training rows is left out.
    """
    answers: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for row in read_rows(train_rows).rows:
        for key in _keys(row):
            answers[key].update(references(row))
    answered = []
    for row in read_rows(test_rows).rows:
        known = next((answers[key] for key in _keys(row) if key in answers), None)
        if row["task"] != "VG" and known is not None:
            answered.append({**row, "response": known.most_common(1)[0][0], "candidates": []})
    return answered


def _keys(row: Mapping[str, Any]) -> list[Hashable]:
    """What training answers are counted by, from the most particular to the task alone.

    The type of a question is its answer type and content type in VQA; the boxes of a question do not count.
    """
    task, modality = row["task"], row["modality"]
    question = " ".join(strip_boxes(row["question"]).lower().split())
    kinds = (answer_type(row), str(row.get("content_type") or "")) if task == VQA else ()
    asked = [(task, *kinds, "question", question, modality), (task, *kinds, "question", question)]
    return [*asked, (task, *kinds, "any", modality), (task, *kinds, "any"), (task, *kinds[:1]), (task,)]


def _flat(rows: Iterable[Any]) -> Iterable[Any]:
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Mapping) and "messages" in row:
            yield from turns_of(number, row)
        elif isinstance(row, Mapping):
            yield {"response": "", **row}


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
