# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd doctor --plan`` of the recipe on the page, as a table below the accordion's groups."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from ..report.build import duration
from ..utils.environment import cli_environment
from .locales import texts


PATIENCE = 300  # seconds


def run_plan(keys: dict[str, Any], gpu: str, gpus: int) -> dict[str, Any]:
    """The plan of a recipe's keys on ``gpus`` GPUs, as ``clinkd doctor --plan --json`` prints it.

    It runs in a process of its own: the page's process loads no model's configuration.

    Raises:
        ValueError: With the command's own message, if the recipe cannot be planned.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({key: value for key, value in keys.items() if value is not None}), "utf-8")
        command = [sys.executable, "-m", __package__.partition(".")[0], "doctor", "--json"]
        command += ["--plan", str(recipe), "--gpu", gpu, "--gpus", str(gpus)]
        run = subprocess.run(command, env=cli_environment(), capture_output=True, text=True, timeout=PATIENCE)
    try:
        return json.loads(run.stdout)
    except ValueError:
        raise ValueError((run.stdout.strip() or run.stderr.strip()).removeprefix("Error: ")) from None


def plan_markdown(plan: dict[str, Any], lang: str | None) -> str:
    """A plan as a Markdown table, GiB on each GPU and time of each phase; below it, whether the recipe fits."""
    words, gib = texts(lang)["board"]["plan"], 2**30
    seconds, peaks = plan["seconds"], {phase: sizes["peak"] / gib for phase, sizes in plan["memory"].items()}
    rows = [
        [phase, f"{peak:.1f}", duration(seconds[phase]) if phase in seconds else "–"] for phase, peak in peaks.items()
    ]
    peak, total = max(peaks.values(), default=0), duration(sum(seconds.values())) if seconds else "–"
    rows.append([f"**{words['total']}**", f"**{peak:.1f}**", f"**{total}**"])
    head = [[words["phase"], words["memory"], words["time"]], ["---", "---:", "---:"]]
    verdict = words["fits" if plan["fits"] else "too_much"].format(peak=f"{peak:.1f}", gib=f"{plan['gib']:g}")
    notes = [verdict, *plan["advice"], words["disk"].format(gib=f"{plan['counts']['checkpoint_bytes'] / gib:.1f}")]
    table = "\n".join(f"| {' | '.join(row)} |" for row in head + rows)
    return "\n\n".join([table, "\n".join(f"- {note}" for note in notes), f"*{words['estimated']}*"])


def estimate(runner: Any, data: dict[Any, Any], gpu: str, gpus: Any, lang: str | None) -> str:
    """The plan of what the page holds, in Markdown, or the reason why there is none."""
    if problem := runner._initialize(data, True, True):
        return problem
    try:
        return plan_markdown(run_plan(runner._parse_train_args(data), str(gpu), int(gpus or 1)), lang)
    except (ValueError, subprocess.TimeoutExpired) as error:
        return str(error)
