# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What the shipped test rows give without looking at a picture: what the demo's scores are held against."""

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from llamafactory_clinkd.evaluate import blind_scores, evaluate_predictions
from llamafactory_clinkd.evaluate.blind import mean_box_from_facts
from llamafactory_clinkd.utils.io import read_json, read_jsonl, write_json


NEIGHBOURS = 15


def blind_answers(data: Path) -> dict[str, Any]:
    """Scores of the blind answers on ``demo_test``.

    Returns:
        ``VG``: see :func:`mean_box_from_facts`, which knows the boxes of all training rows. ``ROC``, ``RC``, ``MIA``:
        see :func:`blind_scores`. ``ROC, from the box alone``: the most frequent structure among the 15 training boxes
        of the modality that are nearest to the box in the question. Each as in ``metrics.json``.
    """
    facts = {split: read_jsonl(data / f"facts_{split}.jsonl") for split in ("train", "test")}
    train, test = (read_json(data / f"demo_{split}.json") for split in ("train", "test"))
    found = {entry["task"]: entry for entry in blind_scores(train, test).values()}
    found["VG"] = mean_box_from_facts(facts["train"], facts["test"])

    boxes = [(f["modality"], np.array(f["box"]), f["structure"]) for f in facts["train"] if "box" in f]
    mine = [row for row in test if row["task"] == "ROC"]
    found["ROC, from the box alone"] = _scores(mine, [_nearest(row, boxes) for row in mine])["ROC"]
    return found


def _nearest(row: dict[str, Any], boxes: list[tuple[str, np.ndarray, str]]) -> str:
    asked = np.array([int(n) for n in re.findall(r"\d+", row["messages"][0]["content"].split("<|box_start|>")[1])[:4]])
    near = sorted(
        (int(np.abs(box - asked).sum()), name) for modality, box, name in boxes if modality == row["modality"]
    )
    return Counter(name for _, name in near[:NEIGHBOURS]).most_common(1)[0][0]


def _scores(rows: list[dict[str, Any]], answers: list[str]) -> dict[str, Any]:
    return evaluate_predictions(
        {
            "task": row["task"],
            "modality": row["modality"],
            "image": row["images"][0],
            "question": row["messages"][0]["content"],
            "annotation": row["messages"][1]["content"],
            "response": answer,
        }
        for row, answer in zip(rows, answers, strict=True)
    )["tasks"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    folder = parser.parse_args().data
    results = blind_answers(folder)
    write_json(folder / "blind.json", results)
    print(json.dumps({k: [round(v["macro"], 4), v["ci"], v["n"]] for k, v in results.items()}, indent=1))
