# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Putting the page together: data from :mod:`.load`, figures from :mod:`.figures`, one template, one file."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..evaluate import paper_tables as paper
from ..utils.boxes import TASKS
from ..utils.io import write_text
from . import sections
from .correction_examples import round_views
from .examples import make_cards
from .load import RunData, load_runs
from .provenance import environment, provenance, recipe_table
from .scores import (
    METHOD,
    TITLES,
    baselines,
    caption_metrics,
    headline,
    metric_name,
    modality_label,
)


CARDS = 6
"""Example cards a task."""
EXAMPLES = (("corrected", 3), ("rejected", 1), ("kept", 1))
"""Examples of a correction round, by status."""
PROBLEMS = 20
SEED = 0


def build_report(run_dirs: list[Path], out_path: Path) -> Path:
    """Writes one self-contained HTML page about one run, or about several side by side.

    What a run does not have is said in the page. The page holds images and text of the data.

    Args:
        run_dirs: ``output_dir`` of each run.
        out_path: Where the page goes, atomically.

    Returns:
        ``out_path``.

    Raises:
        ValueError: If no run is given.
        FileNotFoundError: If a folder is not a run's ``output_dir``.
        ImportError: If jinja2 or matplotlib is not installed.
    """
    page = _template().render(_page(load_runs([Path(folder) for folder in run_dirs])))
    write_text(out_path, page)
    return Path(out_path)


def _template() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("The report needs jinja2: pip install 'llamafactory-clinkd[eval]'") from error

    templates = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": _number, "points": _signed, "duration": duration, "modality": modality_label}
    return templates.get_template("page.html.jinja")


def _page(runs: list[RunData]) -> dict[str, Any]:
    """Everything the template needs."""
    return {
        "runs": runs,
        "several": len(runs) > 1,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "titles": TITLES,
        "headlines": [headline(run) for run in runs],
        "metric_names": {task: metric_name(runs, task) for task in (*TASKS, "Average")},
        "paper_rows": [
            ("LLaVA-Med", paper.TABLE_1[paper.MED_GRIT, "LLaVA-Med"]),
            ("BiRD", paper.TABLE_1[paper.MED_GRIT, "BiRD"]),
            ("Qwen2-VL, fine-tuned", paper.TABLE_2["Qwen2-VL", False, False, False]),
            (METHOD, paper.TABLE_1[paper.MED_GRIT, METHOD]),
        ],
        "provenance": [provenance(run) for run in runs],
        "baselines": [baselines(run) for run in runs],
        "problems_shown": PROBLEMS,
        "tasks": [sections.task_view(runs, task) for task in TASKS],
        "captions": [caption_metrics(run) for run in runs],
        "sweep": sections.sweep(runs),
        "curves": sections.curves(runs),
        "rounds": (rounds := round_views(runs, SEED, EXAMPLES)),
        "rounds_figure": sections.rounds_figure(rounds),
        "pseudo_labels": sections.pseudo_labels(runs[0], SEED),
        "cards": {task: make_cards(runs, task, CARDS, SEED) for task in TASKS},
        "proportions": sections.proportions(runs[0]),
        "attention": sections.attention(runs),
        "recipe": recipe_table(runs),
        "environment": environment(),
    }


def duration(seconds: Any) -> str:
    """Seconds as ``42 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    if not isinstance(seconds, int | float):
        return "not recorded"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")
