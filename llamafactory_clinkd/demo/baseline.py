# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""What one gets on visual grounding without looking at the picture: the number to print beside the model's."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..boxes import iou


def mean_box_recall(train: Iterable[Mapping[str, Any]], test: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Recall@0.5 of the blind answer: the mean training box of the structure in that plane of that scan.

    Args:
        train: Facts of training rows (``facts_train.jsonl``, ``facts_pretrain.jsonl``); those with a ``box`` count.
        test: Facts of test rows; those whose ``task`` is ``VG`` are answered.

    Returns:
        ``macro`` (mean over modalities, as the project's metrics are), ``modalities`` and ``n``. A structure that was
        never seen in its plane gets the mean of all boxes.

    Raises:
        ValueError: If there is no training box or no VG row to answer.
    """
    boxes: dict[tuple[str, str, str], list[list[float]]] = defaultdict(list)
    for row in train:
        if "box" in row:
            boxes[row["scan"], row["plane"], row["structure"]].append(row["box"])
    rows = [row for row in test if row["task"] == "VG"]
    if not boxes or not rows:
        raise ValueError(
            f"The baseline needs training boxes (found {len(boxes)} kinds) and VG rows (found {len(rows)})."
        )

    means = {key: np.mean(group, axis=0) for key, group in boxes.items()}
    overall = np.mean([box for group in boxes.values() for box in group], axis=0)
    hits: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        guess = means.get((row["scan"], row["plane"], row["structure"]), overall)
        hits[row["modality"]].append(iou(guess, row["box"]) > 0.5)
    modalities = {name: {"value": float(np.mean(hit)), "n": len(hit)} for name, hit in sorted(hits.items())}
    macro = float(np.mean([entry["value"] for entry in modalities.values()]))
    return {"macro": macro, "modalities": modalities, "n": len(rows)}
