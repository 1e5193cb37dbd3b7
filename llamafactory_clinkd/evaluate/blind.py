# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The blind answer of every task: what is scored without the image, from the training rows and the question alone.

VG is answered by :mod:`.mean_box`, every other task by the most frequent training answer: to the same question about
the same modality, else to the same question, else to a question of the same type (:func:`_keys`), and so on.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from ..utils.boxes import TASKS, strip_boxes
from .grounding import references
from .mean_box import mean_box_baseline
from .prediction_files import turns_of
from .predictions import read_rows
from .scoring import evaluate_predictions
from .vqa import VQA, answer_type


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
