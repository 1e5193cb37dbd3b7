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

"""Putting the page together: data from :mod:`.load`, figures from :mod:`.figures`, one template, one file."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..boxes import MODALITIES, TASKS
from ..evaluate import paper
from ..run_state import write_text
from . import figures
from .cards import make_cards
from .corrections import round_views
from .load import RunData, load_runs
from .logs import SERIES
from .pictures import embed
from .recipe import environment, provenance, recipe_table
from .sample import sample_rows
from .scores import (
    METHOD,
    TITLES,
    baselines,
    caption_metrics,
    headline,
    metric_name,
    modality_names,
    modality_score,
    paper_value,
)
from .texts import segments


CARDS = 6
"""Example cards a task."""
EXAMPLES = (("corrected", 3), ("rejected", 1), ("kept", 1))
"""Examples of a correction round, by status."""
ATTENTION_MAPS = 12
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
        loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"percent": _number, "points": _signed, "duration": duration}
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
        "tasks": [_task_view(runs, task) for task in TASKS],
        "captions": [caption_metrics(run) for run in runs],
        "sweep": _sweep(runs),
        "curves": _curves(runs),
        "rounds": (rounds := round_views(runs, SEED, EXAMPLES)),
        "rounds_figure": _rounds_figure(rounds),
        "pseudo_labels": _pseudo_labels(runs[0]),
        "cards": {task: make_cards(runs, task, CARDS, SEED) for task in TASKS},
        "proportions": _proportions(runs[0]),
        "attention": _attention(runs),
        "recipe": recipe_table(runs),
        "environment": environment(),
    }


def _task_view(runs: Sequence[RunData], task: str) -> dict[str, Any]:
    """A task's modalities: a figure and the rows of a table."""
    names = modality_names(runs, task)
    scores = {name: [modality_score(run, task, name) for run in runs] for name in names}
    printed = [paper_value(task, METHOD, name) for name in names]
    mine = [[(scores[name][number].value, scores[name][number].interval) for name in names] for number in range(len(runs))]
    found = any(value is not None for values in mine for value, _ in values)
    description = f"{TITLES[task]} by modality, ours as bars, the paper's {METHOD} as diamonds; the table has the numbers."
    bird = {name: paper_value(task, "BiRD", name) for name in names}
    return {
        "task": task,
        "names": names,
        "scores": scores,
        "bird": bird,
        "means": [headline(run)[task] for run in runs],
        "bird_mean": paper_value(task, "BiRD", "average"),
        "figure": figures.modality_bars(names, mine, printed, f"modality-{task.lower()}", description) if found else None,
    }


def _curves(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """For each training phase, a panel for each quantity that any run logged."""
    views = []
    for phase in dict.fromkeys(log.phase for run in runs for log in run.logs):
        logs = [(number, log) for number, run in enumerate(runs) for log in run.logs if log.phase == phase]
        panels = []
        for key, title in SERIES.items():
            series = [(number, *log.series[key]) for number, log in logs if key in log.series]
            if series:
                ends = "; ".join(f"{runs[n].name} from {y[0]:.4g} to {y[-1]:.4g}" for n, _, y in series)
                figure = figures.training_curve(title, series, f"curve-{phase}-{key}", f"{title} in {phase}: {ends}.")
                panels.append(figure)
        split = all("ce" in log.series and "kl" in log.series for _, log in logs)
        sources = [f"{runs[number].name}: {log.source}" if len(runs) > 1 else log.source for number, log in logs]
        views.append({"phase": phase, "panels": panels, "split": split, "sources": sources})
    return views


def _rounds_figure(rounds: Sequence[Any]) -> str | None:
    if not rounds:
        return None
    told = "; ".join(f"{view.title}: " + ", ".join(f"{n} {status}" for status, n in view.counts.items()) for view in rounds)
    return figures.status_bars([(view.title, view.counts) for view in rounds], "rounds", f"Rows of each round. {told}.")


def _pseudo_labels(run: RunData) -> dict[str, Any] | None:
    """Counts and examples of the teacher's answers."""
    rows = [row for row in run.pseudo_labels if isinstance(row, dict)]
    if not rows:
        return None
    chosen = sample_rows(rows, len(TASKS), group=lambda row: str(row.get("task")), seed=SEED)
    examples = [
        {
            "task": row.get("task"),
            "question": segments(row.get("question")),
            "label": segments(row.get("pseudo_label")),
            "truth": segments(row.get("annotation")),
        }
        for row in chosen
    ]
    return {"rows": len(rows), "labelled": sum(row.get("pseudo_label") is not None for row in rows), "examples": examples}


def _proportions(run: RunData) -> list[dict[str, Any]]:
    """Shares of modalities and tasks in the test answers and in the rows that the teacher labelled (Figure A1)."""
    views = []
    for identity, title, rows in (
        ("test", "Test questions", run.predictions),
        ("labelled", "Training rows that the teacher labelled", run.pseudo_labels),
    ):
        table = Counter((str(row.get("modality")), str(row.get("task"))) for row in rows if isinstance(row, dict))
        if not table:
            continue
        order = {name: number for number, name in enumerate(MODALITIES)}
        modalities = sorted({name for name, _ in table}, key=lambda name: (order.get(name, len(order)), name))
        tasks = [task for task in TASKS if any(name == task for _, name in table)]
        by_modality = {name: sum(table[name, task] for task in tasks) for name in modalities}
        by_task = {task: sum(table[name, task] for name in modalities) for task in tasks}
        views.append(
            {
                "title": title,
                "total": sum(table.values()),
                "modality_figure": figures.proportion_bars(by_modality, f"{identity}-modalities", f"{title} by modality"),
                "task_figure": figures.proportion_bars(by_task, f"{identity}-tasks", f"{title} by task"),
                "tasks": tasks,
                "rows": [(name, [table[name, task] for task in tasks]) for name in modalities],
            }
        )
    return views


def _sweep(runs: Sequence[RunData]) -> dict[str, Any] | None:
    """Scores over ``kd_alpha`` when the runs differ in it (Figure 4)."""
    known = [(run.setting("kd_alpha"), run) for run in runs if isinstance(run.setting("kd_alpha"), int | float)]
    if len({alpha for alpha, _ in known}) < 2:
        return None
    ordered = sorted(known, key=lambda pair: pair[0])
    found = [headline(run) for _, run in ordered]
    scores = {task: [score[task].value for score in found] for task in (*TASKS, "Average")}
    alphas = [alpha for alpha, _ in ordered]
    told = "; ".join(
        f"alpha {alpha:g}: {value:.1f}" for alpha, value in zip(alphas, scores["Average"], strict=True) if value is not None
    )
    other = [line["key"] for line in recipe_table([run for _, run in ordered]) if line["differs"]]
    return {
        "figure": figures.alpha_sweep(alphas, scores, "alpha-sweep", f"Scores over kd_alpha. Average: {told or 'none'}."),
        "also_differs": [key for key in other if key != "kd_alpha"],
    }


def _attention(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Attention maps, embedded; a file that cannot be read is named with its reason."""
    maps = [(run, path) for run in runs for path in run.attention]
    shown = []
    for run, path in maps[:ATTENTION_MAPS]:
        title = f"{run.name}: {path.stem}" if len(runs) > 1 else path.stem
        try:
            shown.append({"title": title, "picture": embed(path, 900), "problem": None})
        except ValueError as error:
            shown.append({"title": title, "picture": None, "problem": str(error)})
    return shown


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
