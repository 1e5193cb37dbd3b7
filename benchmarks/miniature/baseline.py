# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What one gets on visual grounding without looking at the picture: the number to print beside the model's."""

from collections.abc import Iterable, Mapping
from typing import Any

from llamafactory_clinkd.evaluate.mean_box import mean_box_baseline


def mean_box_recall(train: Iterable[Mapping[str, Any]], test: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Recall@0.5 of the blind answer: the mean training box of the structure in that plane and modality.

    Args:
        train: Facts of training rows (``facts_train.jsonl``, ``facts_pretrain.jsonl``); those with a ``box`` count,
            whatever they ask.
        test: Facts of test rows; those whose ``task`` is ``VG`` are answered.

    Returns:
        As :func:`.mean_box_baseline`: ``macro`` (mean over modalities), ``ci``, ``modalities``, ``n`` and more. A
        structure that was never seen in its plane gets the mean of all boxes.

    Raises:
        ValueError: If there is no training box or no VG row to answer.
    """
    return mean_box_baseline(grounding_rows(train), grounding_rows(row for row in test if row["task"] == "VG"))


def grounding_rows(facts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A grounding row, as the evaluation reads them, for each box that is known."""
    return [
        {
            "task": "VG",
            "question": f"<ref>{fact['structure']}</ref>",
            "annotation": "<box>({},{}),({},{})</box>".format(*fact["box"]),
            "image": f"{fact['id']}.png",
            "modality": fact["modality"],
            "plane": fact["plane"],
        }
        for fact in facts
        if "box" in fact
    ]
