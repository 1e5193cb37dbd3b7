# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Scores in percent beside the paper's Tables 1 and 3, and over ``kd_alpha`` (Figure 4)."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from ..evaluate import paper_tables as paper
from ..evaluate.grounding import CURVE
from ..evaluate.score_table import UNRECORDED, metric_name
from ..evaluate.vqa import PARTS
from ..utils.boxes import MODALITIES, TASKS, VQA, modality_label, sort_modalities
from . import figures
from .load import RunData
from .provenance import recipe_table


METHOD = "ClinKD"
TITLES = {
    "VG": "Visual grounding", "ROC": "Referring object classification", "RC": "Referring captioning",
    "MIA": "Medical image analysis", "Average": "Average",
}  # fmt: skip
CAPTION_METRICS = {
    "bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4", "meteor": "METEOR",
    "rouge_l": "ROUGE-L", "cider": "CIDEr", "mbmr_bird": "mBMR (BiRD)",
}  # fmt: skip


class Score(NamedTuple):
    """A score, its interval and the paper's score in percent, and the number of rows; None where unknown."""

    value: float | None
    interval: tuple[float, float] | None = None
    n: int | None = None
    paper: float | None = None
    comparable: bool = True  # whether it is the paper's metric

    @property
    def difference(self) -> float | None:
        """This score minus the paper's, in percentage points; None for another metric than the paper's."""
        return self.value - self.paper if self.comparable and None not in (self.value, self.paper) else None


def is_approximate(run: RunData) -> bool:
    """Whether RC's metric is not the paper's: then neither it nor the average is compared with the paper's."""
    return "approx" in str(_task(run, "RC").get("metric"))


def has_papers_test_data(runs: Sequence[RunData]) -> bool:
    """Whether all test data sets have Med-GRIT's name (``med_grit``): the paper's numbers are of no other data."""
    names = [run.phases.get("predict", {}).get("inputs", {}).get("data_files") or {} for run in runs]
    return all(each and all("medgrit" in re.sub(r"\W|_", "", name).lower() for name in each) for each in names)


def headline(run: RunData, compared: bool) -> dict[str, Score]:
    """The four tasks and their average, if ``compared`` beside Table 1's ClinKD row, an average of all four only."""
    printed: dict[str, float | None] = dict.fromkeys((*TASKS, "Average"))
    if compared:
        printed = dict(zip((*TASKS, "Average"), paper.TABLE_1[paper.MED_GRIT, METHOD], strict=True))
    approximate = {"RC", "Average"} if is_approximate(run) else set()
    scores = {task: _score(_task(run, task), "macro", printed[task], task not in approximate) for task in TASKS}
    metrics = run.metrics or {}
    complete = set(metrics.get("average_of", metrics.get("tasks", ()))) == set(TASKS)
    average = _score(metrics, "average", printed["Average"] if complete else None, not approximate)
    return {**scores, "Average": average}


class Baseline(NamedTuple):
    """A row below a run's in the main table."""

    name: str
    scores: dict[str, Score]  # by column
    source: str  # the rows that blind answers are made of, else empty


class Column(NamedTuple):
    """A column of the main table."""

    name: str
    title: str
    metric: str


def columns(runs: Sequence[RunData]) -> list[Column]:
    """The paper's tasks and their average, and VQA where a run has rows of it; VQA alone if no run has others."""
    metrics = [run.metrics for run in runs]
    found = {task for each in metrics for task in (each or {}).get("tasks", ())}
    vqa = [
        Column(name, f"Visual question answering{name.removeprefix(VQA)}", key.partition("_")[2])
        for name, key in PARTS.items()
        if VQA in found
    ]
    if vqa and found.isdisjoint(TASKS):
        return vqa
    averaged = dict.fromkeys(", ".join((each or {}).get("average_of") or ()) for each in metrics) or {"": None}
    means = [f"mean of {tasks}" for tasks in averaged if tasks not in ("", ", ".join(TASKS))]
    names = {task: metric_name(metrics, task) for task in TITLES} | ({"Average": " / ".join(means)} if means else {})
    return [*(Column(task, title, names[task]) for task, title in TITLES.items()), *vqa]


def main_scores(run: RunData, compared: bool) -> dict[str, Score]:
    """The scores of every column; see :func:`headline`."""
    return headline(run, compared) | _vqa_scores(_task(run, VQA))


def main_baselines(runs: Sequence[RunData]) -> list[list[Baseline]]:
    """The baselines of each run, the blind answers of all tasks as one; without those that an earlier run has too."""
    found: list[list[Baseline]] = []
    for run in runs:
        metrics = run.metrics or {}
        entries = {name.replace("_", " "): entry for name, entry in (metrics.get("baselines") or {}).items()}
        source = f"from {metrics.get('baselines_from', UNRECORDED)}"
        mine: dict[str, Baseline] = {}
        for name, task, score, _ in baselines(run):
            is_blind = name.startswith("blind")
            title = "blind answers" if is_blind else name
            row = mine.setdefault(title, Baseline(title, {}, source if is_blind else ""))
            row.scores.update(_vqa_scores(entries[name]) if task == VQA else {task: score})
        found.append([each for each in mine.values() if all(each not in earlier for earlier in found)])
    return found


def stages(runs: Sequence[RunData]) -> list[list[tuple[str, dict[str, Score]]]]:
    """(name, scores by task) of each run's ``stages`` in ``metrics.json``, which came before its own result.

    Those that an earlier run has too are left out.
    """
    found: list[list[tuple[str, dict[str, Score]]]] = []
    for run in runs:
        mine = [
            (name, {task: _score(entry, "macro") for task, entry in tasks.items()})
            for name, tasks in ((run.metrics or {}).get("stages") or {}).items()
        ]
        found.append([each for each in mine if all(each not in earlier for earlier in found)])
    return found


def task_view(runs: Sequence[RunData], task: str, compared: bool) -> dict[str, Any]:
    """The scores of a task by modality, as a figure and as table rows.

    Modalities are those of any run, if ``compared`` also of Table 3, whose scores then stand beside.
    """
    entries = [_task(run, task).get("modalities", {}) for run in runs]
    clinkd, bird = (paper.TABLE_3[task][name] if compared else {} for name in (METHOD, "BiRD"))
    names = sort_modalities(chain(*entries, (name for name in MODALITIES if clinkd.get(name) is not None)))
    own = [task != "RC" or not is_approximate(run) for run in runs]
    scores = {
        name: [
            _score(entry.get(name, {}), "value", clinkd.get(name), comparable)
            for entry, comparable in zip(entries, own, strict=True)
        ]
        for name in names
    }
    figure = None
    if any(score.value is not None for row in scores.values() for score in row):
        bars = [[(score.value, score.interval) for score in column] for column in zip(*scores.values(), strict=True)]
        labels, diamonds = [modality_label(name) for name in names], [clinkd.get(name) for name in names]
        beside = f", the paper's {METHOD} as diamonds" if compared else ""
        text = f"{TITLES[task]} by modality, ours as bars{beside}; the table has the numbers."
        figure = figures.modality_bars(labels, bars, diamonds, f"modality-{task.lower()}", text)
    return {
        "task": task,
        "scores": scores,
        "bird": {name: bird.get(name) for name in names},
        "means": [headline(run, compared)[task] for run in runs],
        "bird_mean": bird.get("average"),
        "figure": figure,
    }


def recall_figure(runs: Sequence[RunData]) -> str | None:
    """VG's recall over the IoU threshold; None where no run has it."""
    series = []
    for index, run in enumerate(runs):
        values = {t: _task(run, "VG").get(f"recall@{t}") for t in CURVE}
        if None not in values.values():
            series.append((index, list(CURVE), [100 * value for value in values.values()]))
    texts = [f"{runs[i].name}: " + ", ".join(f"{t}: {v:.1f}" for t, v in zip(x, y, strict=True)) for i, x, y in series]
    text = f"Recall in percent over the IoU threshold. {'; '.join(texts)}."
    return figures.recall_curve(series, "recall-curve", text) if series else None


def caption_metrics(run: RunData) -> dict[str, Score]:
    """The components of mBMR, and CIDEr, as means over the modalities."""
    entry, titles = _task(run, "MIA"), CAPTION_METRICS.items()
    return {title: _score({key: entry[key]}, key) for key, title in titles if entry.get(key) is not None}


def baselines(run: RunData) -> list[tuple[str, str, Score, dict[str, Score]]]:
    """The ``baselines`` of ``metrics.json`` with a numeric ``macro``: (name, task, score, score by modality).

    A baseline is a task's entry of the metrics, by itself or under ``VG``, or a number; its default ``task`` is VG.
    """
    scores = []
    for name, entry in ((run.metrics or {}).get("baselines") or {}).items():
        entry = entry if isinstance(entry, dict) else {"macro": entry}
        entry = entry.get("VG", entry)
        if isinstance(entry.get("macro"), int | float):
            modalities = {key: _score(values, "value") for key, values in (entry.get("modalities") or {}).items()}
            scores.append((name.replace("_", " "), entry.get("task", "VG"), _score(entry, "macro"), modalities))
    return scores


def alpha_sweep(runs: Sequence[RunData]) -> dict[str, Any] | None:
    """The scores over ``kd_alpha``, if the runs differ in it (Figure 4)."""
    runs = [run for run in runs if isinstance(run.setting("kd_alpha"), int | float)]
    runs.sort(key=lambda run: run.setting("kd_alpha"))
    alphas = [run.setting("kd_alpha") for run in runs]
    if len(set(alphas)) < 2:
        return None
    headlines = [main_scores(run, compared=False) for run in runs]
    names = [column.name for column in columns(runs)]
    scores = {name: [scores[name].value for scores in headlines] for name in names}
    main = "Average" if "Average" in scores else names[0]
    pairs = zip(alphas, scores[main], strict=True)
    values = "; ".join(f"alpha {alpha:g}: {value:.1f}" for alpha, value in pairs if value is not None)
    description = f"Scores over kd_alpha. {main}: {values or 'none'}."
    return {
        "figure": figures.alpha_sweep(alphas, scores, "alpha-sweep", description),
        "also_differs": [line["key"] for line in recipe_table(runs) if line["differs"] and line["key"] != "kd_alpha"],
    }


def _task(run: RunData, task: str) -> dict[str, Any]:
    return ((run.metrics or {}).get("tasks") or {}).get(task) or {}


def _vqa_scores(entry: Mapping[str, Any]) -> dict[str, Score]:
    """The scores of VQA's columns, each with the number of its questions."""
    closed = entry.get("closed")
    counts = (closed, None if closed is None else entry["n"] - closed)
    return {
        name: _score({key: entry.get(key), "ci": (entry.get("intervals") or {}).get(key), "n": count}, key)
        for (name, key), count in zip(PARTS.items(), counts, strict=True)
    }


def _score(entry: Mapping[str, Any], key: str, printed: float | None = None, comparable: bool = True) -> Score:
    """A score of ``metrics.json`` beside the paper's."""
    value, ci = entry.get(key), entry.get("ci")
    percent = 100 * float(value) if isinstance(value, int | float) else None
    bounds = (100 * ci[0], 100 * ci[1]) if isinstance(ci, list) and len(ci) == 2 else None
    return Score(percent, bounds, entry.get("n"), printed, comparable)
