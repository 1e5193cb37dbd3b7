# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Everything that ``examples/clinkd_demo.yaml`` needs, made by one call: data, base and teacher."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamafactory_clinkd.evaluate.mean_box import mean_box_from_facts
from llamafactory_clinkd.utils.io import read_jsonl
from llamafactory_clinkd.utils.progress import bars_of_parts

from .pretrain import PretrainSettings, losses_of, pretrain
from .scans import DataSettings, build_data


@dataclass(frozen=True)
class DemoPaths:
    """What :func:`prepare` made.

    Attributes:
        data: LLaMA-Factory's ``dataset_dir`` (also its ``media_dir``), with ``demo_train`` and ``demo_test``.
        base: The student before ClinKD (``model_name_or_path``).
        teacher: The teacher (``ref_model``).
        baseline: Recall@0.5 of the mean box: ``macro``, ``modalities``, ``n``.
    """

    data: Path
    base: Path
    teacher: Path
    baseline: dict[str, Any]


FULL = (DataSettings(), PretrainSettings())
QUICK = (
    DataSettings(train=400, test=100, pretrain=2400),
    PretrainSettings(vision_steps=150, base_steps=60, teacher_steps=100),
)


def prepare(directory: str | Path, quick: bool = False, seed: int = 0) -> DemoPaths:
    """Builds data and models in ``directory``, or finds them built, and shows what there is.

    Args:
        directory: ``data``, ``models`` and ``work`` are made in it; downloaded scans are kept in ``cache``.
        quick: Smaller sizes, for a look at the machinery; the models learn little.
        seed: Seed of the data and of the models.
    """
    from rich.console import Console

    directory, console = Path(directory), Console()
    sizes, steps = (replace(settings, seed=seed) for settings in (QUICK if quick else FULL))
    with bars_of_parts(console) as show:
        built = build_data(
            directory / "data",
            sizes,
            directory / "cache",
            say=console.print,
            advance=lambda done, total: show("real scans -> rows", done, total),
        )
        titles = {
            "vision": "pretraining: vision tower",
            "base": "pretraining: base",
            "teacher": "pretraining: teacher",
        }
        models = pretrain(
            directory / "data",
            directory / "models",
            directory / "work",
            steps,
            lambda part, step, total, loss: show(titles[part], step, total, f"loss {loss:.2f}"),
        )

    _show(console, built)
    facts = {split: read_jsonl(directory / "data" / f"facts_{split}.jsonl") for split in ("train", "pretrain", "test")}
    baseline = mean_box_from_facts(facts["train"] + facts["pretrain"], facts["test"])
    losses = losses_of(directory / "models")
    console.print(f"Pretraining ended at these losses: {losses}.")
    console.print(f"Blind mean-box baseline on VG: Recall@0.5 {baseline['macro']:.3f} over {baseline['n']} rows.")
    return DemoPaths(directory / "data", models["base"], models["teacher"], baseline)


def _show(console, built: dict[str, Any]) -> None:
    """Prints the scans with their licences, and how many rows there are of each task and modality."""
    from rich.table import Table

    scans = Table("scan", "modality", "source", "licence", title="Real scans")
    for scan in built["scans"]:
        scans.add_row(scan["key"], scan["modality"], scan["source"], scan["licence"])

    counts = Counter({tuple(key.split("/")): count for key, count in built["counts"].items()})
    splits = ("pretrain", "train", "test")
    rows = Table("task", "modality", *splits, title="Rows (pretrain: by the first of several questions)")
    for task, modality in sorted({key[1:] for key in counts}):
        rows.add_row(task, modality, *(str(counts[split, task, modality]) for split in splits))
    console.print(scans, rows)
