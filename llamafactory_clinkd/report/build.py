# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The HTML report: run folders are loaded, each section becomes a view, and one template renders all views."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ..evaluate import format_percent
from ..evaluate import paper_tables as paper
from ..evaluate.score_table import SELECTED_VQA, VQA_SCORES, below_blind
from ..evaluate.selection_worth import CHOICES
from ..utils.boxes import TASKS, VQA, modality_label
from ..utils.environment import require_library
from ..utils.io import write_text
from .examples import attention_maps, make_examples, pseudo_label_examples, round_views, rounds_figure
from .load import RunData, load_runs
from .outcomes import comparisons, confusion
from .provenance import environment, proportions, provenance, recipe_table
from .scores import (
    METHOD,
    alpha_sweep,
    baselines,
    caption_metrics,
    columns,
    has_papers_test_data,
    is_approximate,
    main_baselines,
    main_scores,
    recall_figure,
    stages,
    task_view,
)
from .training_logs import curves


EXAMPLES_OF_TASK = 6
MAX_PROBLEMS = 20
SEED = 0


def build_report(
    run_dirs: list[Path], out_path: Path, image_dir: Path | None = None, names: Sequence[str] | None = None
) -> Path:
    """Writes one self-contained HTML page about the run of an ``output_dir``, or about several side by side.

    Images are looked for in ``image_dir`` first. Runs have the ``names``, by default those of their folders. The page
    lists what a run does not have. It contains images and text of the data, and is written atomically.

    Raises:
        ValueError: If there is no run, or another number of names.
        FileNotFoundError: If a folder is not a run's ``output_dir``, or ``image_dir`` is no folder.
        ImportError: If jinja2 or matplotlib is not installed.
    """
    template, runs = _template(), load_runs(run_dirs, image_dir, names)
    with ThreadPoolExecutor(1) as pool:  # comparisons wait for Java; figures are drawn meanwhile
        compared = pool.submit(comparisons, runs)
        views = _views(runs)
        write_text(out_path, template.render({**views, "comparisons": compared.result()}))
    return Path(out_path)


def duration(seconds: Any) -> str:
    """Seconds as ``42 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    if not isinstance(seconds, int | float):
        return "not recorded"
    minutes, whole = divmod(round(seconds), 60)
    if not minutes:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    return f"{minutes} min {whole:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _template() -> Any:
    jinja2 = require_library("jinja2", "eval", "The report needs")
    options = {"autoescape": True, "undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    templates = jinja2.Environment(loader=jinja2.PackageLoader(__package__), **options)
    templates.filters |= {
        "percent": partial(format_percent, missing="–"),
        "points": lambda value: f"{value:+.2f}".replace("-", "−"),
        "duration": duration,
        "modality": modality_label,
    }
    return templates.get_template("page.html.jinja")


def _views(runs: list[RunData]) -> dict[str, Any]:
    """The variables of the template, without the comparisons."""
    rounds, shown = round_views(runs, SEED), columns(runs)
    of_paper = any(column.name in TASKS for column in shown)
    compared = of_paper and has_papers_test_data(runs)
    return {
        "runs": runs,
        "several": len(runs) > 1,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "of_paper": of_paper,
        "compared": compared,
        "columns": shown,
        "titles": {column.name: column.title for column in shown},
        "headlines": [main_scores(run, compared) for run in runs],
        "main_baselines": main_baselines(runs),
        "stages": stages(runs),
        "metric_names": {column.name: column.metric for column in shown},
        "approximate": any(is_approximate(run) for run in runs),
        "paper_rows": [
            ("LLaVA-Med", paper.TABLE_1[paper.MED_GRIT, "LLaVA-Med"]),
            ("BiRD", paper.TABLE_1[paper.MED_GRIT, "BiRD"]),
            ("Qwen2-VL, fine-tuned", paper.TABLE_2["Qwen2-VL", False, False, False]),
            (METHOD, paper.TABLE_1[paper.MED_GRIT, METHOD]),
        ],
        "provenance": [provenance(run) for run in runs],
        "baselines": [baselines(run) for run in runs],
        "max_problems": MAX_PROBLEMS,
        "tasks": [task_view(runs, task, compared) for task in TASKS if of_paper],
        "recall_figure": recall_figure(runs),
        "vqa": [(run.metrics or {}).get("tasks", {}).get(VQA) for run in runs],
        "vqa_scores": VQA_SCORES,
        "selections": [(run.metrics or {}).get("selection") or {} for run in runs],
        "choices": CHOICES,
        "selected_vqa": SELECTED_VQA,
        "below_blind": {run.name: below_blind(run.metrics) if run.metrics else "" for run in runs},
        "confusions": [confusion(run) for run in runs],
        "captions": [caption_metrics(run) for run in runs],
        "sweep": alpha_sweep(runs),
        "curves": curves({run.name: run.logs for run in runs}),
        "rounds": rounds,
        "rounds_figure": rounds_figure(rounds),
        "pseudo_labels": pseudo_label_examples(runs[0], SEED),
        "examples": {task: make_examples(runs, task, EXAMPLES_OF_TASK, SEED) for task in (*TASKS, VQA)},
        "proportions": proportions(runs[0]),
        "attention": attention_maps(runs),
        "recipe": recipe_table(runs),
        "environment": environment(),
    }
