# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd demo``: real scans, small models, then the recipe ``examples/clinkd_demo.yaml`` on stock LLaMA-Factory."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from ..utils.boxes import strip_boxes
from ..utils.io import read_json, write_json
from ..utils.llamafactory_cli import cli_command, cli_environment


RECIPE = Path(__file__).resolve().parents[2] / "examples" / "clinkd_demo.yaml"
QUICK_CHANGES = {
    "pseudo_label_samples": 64,
    "correction_max_samples": 48,
    "kd_epochs": 1,
}


def run_demo(directory: Path, *, quick: bool) -> None:
    """Builds what is not built yet, runs the procedure (or the rest of it), and says where the report is.

    Raises:
        FileNotFoundError: Outside a checkout, which holds the recipe.
        RuntimeError: If training failed; the same command continues it.
    """
    from miniature.build import prepare

    from ..utils.progress import bars_of_parts

    if not RECIPE.is_file():
        raise FileNotFoundError(f"{RECIPE} does not exist: `clinkd demo` runs in a checkout of the project.")
    console = Console()
    paths = prepare(directory, quick=quick)
    with bars_of_parts(console) as show:
        scorer = train_scorer(paths.data, directory / "models" / "scorer", show, steps=60 if quick else 250)
    output_dir = directory / "run"
    changes = {
        "model_name_or_path": paths.base,
        "ref_model": paths.teacher,
        "sasg_scorer": scorer,
        "dataset_dir": paths.data,
        "output_dir": output_dir,
        **(QUICK_CHANGES if quick else {}),
    }
    command = cli_command("train", RECIPE, *(f"{key}={value}" for key, value in changes.items()))
    console.rule("ClinKD on stock LLaMA-Factory")
    console.print(f"llamafactory-cli train {RECIPE.relative_to(RECIPE.parents[1])}, its paths put in {directory}")
    # The output shows phases and progress bars, not every configuration file that is read.
    environment = cli_environment(LLAMAFACTORY_VERBOSITY=os.environ.get("LLAMAFACTORY_VERBOSITY", "WARN"))
    if subprocess.run(command, env=environment, check=False).returncode != 0:
        raise RuntimeError("The procedure ended with an error (above). The same command continues where it stopped.")
    _conclude(console, output_dir, paths.baseline)


def train_scorer(data: Path, folder: Path, show: Callable[..., None], *, steps: int) -> Path:
    """A small open_clip model trained on the demo's own training captions; found again if it is there.

    No CLIP weights come with the project; every score of this one carries the name ``demo`` in the report.
    """
    from miniature.clip_scorer import train_demo_scorer

    def advance(step: int, total: int, loss: float) -> None:
        show("training: CLIP scorer", step, total, f"loss {loss:.2f}")

    if not (folder / "open_clip_config.json").is_file():
        rows = json.loads((data / "demo_train.json").read_text(encoding="utf-8"))
        captions = [row for row in rows if row["task"] in ("RC", "MIA")]
        pairs = [(data / row["images"][0], strip_boxes(row["messages"][1]["content"])) for row in captions]
        train_demo_scorer(pairs, folder, steps=steps, advance=advance)
    return folder


def _conclude(console: Console, output_dir: Path, baseline: dict[str, Any]) -> None:
    """Puts the mean-box baseline beside the metrics, and makes the report anew with it."""
    from ..report import build_report

    path = output_dir / "clinkd" / "metrics.json"
    metrics = read_json(path)
    metrics["baselines"] = {"mean_box": baseline}
    write_json(path, metrics)
    reached = metrics["tasks"].get("VG", {}).get("macro")
    console.print(f"VG Recall@0.5: ClinKD {reached:.3f}, blind mean box {baseline['macro']:.3f}.")
    report = build_report([output_dir], output_dir / "clinkd" / "report.html")
    console.print(f"Report: {report.resolve()}  (open it in a browser)")
