# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The row that looks at no picture at all: the mean training box of the structure asked for, as answers to VG."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from miniature.baseline import mean_box_recall

from ..evaluate import load_rows, mean_box_baseline
from ..utils.io import read_jsonl


def mean_box_metrics(data: Path, train: str, test: str) -> dict[str, Any]:
    """Metrics of the mean box, with VG alone.

    Args:
        data: LLaMA-Factory's ``dataset_dir``.
        train: Data set that the means are taken of.
        test: Data set that is answered.

    Where the demo's facts are there (which structure, plane and box each training row shows, whatever it asks), they
    are used, those of the models' pretraining too: the baseline knows all that the models were shown.

    Raises:
        FileNotFoundError: If a data set is not on this machine.
        ValueError: If there is no box to take a mean of, or no row to answer.
    """
    facts = data / f"facts_{_part(test)}.jsonl"
    if facts.is_file():
        seen = [fact for part in (_part(train), "pretrain") for fact in read_jsonl(data / f"facts_{part}.jsonl")]
        found = mean_box_recall(seen, read_jsonl(facts))
    else:
        found = mean_box_baseline(*(_of_sharegpt(load_rows(data / f"{name}.json")) for name in (train, test)))
    return {"tasks": {"VG": found}, "average": None, "ci": None, "average_of": [], "notes": []}


def _part(name: str) -> str:
    """``demo_train`` -> ``train``."""
    return name.rsplit("_", 1)[-1]


def _of_sharegpt(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """The first question and answer of each row of the layout of ``clinkd data convert``."""
    return [
        {
            "task": row.get("task"),
            "question": row["messages"][0]["content"].replace("<image>", ""),
            "annotation": row["messages"][1]["content"],
            "image": (row.get("images") or [""])[0],
            "modality": row.get("modality"),
        }
        for row in rows
    ]
