# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Scores as the page shows them: the headline, and each modality beside the paper's Table 3."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluate import paper_tables as paper
from ..utils.boxes import MODALITIES, TASKS
from .load import RunData


METHOD = "ClinKD"
TITLES = {
    "VG": "Visual grounding",
    "ROC": "Referring object classification",
    "RC": "Referring captioning",
    "MIA": "Medical image analysis",
    "Average": "Average",
}
_LABELS = {"ct": "CT", "mr": "MR", "x": "X-ray", "pet": "PET"}
CAPTION_METRICS = {
    "bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4", "meteor": "METEOR",
    "rouge_l": "ROUGE-L", "cider": "CIDEr", "mbmr_bird": "mBMR (BiRD)",
}  # fmt: skip


@dataclass(frozen=True)
class Score:
    """A value in percent with its interval and the difference from the paper's, any of them None where unknown."""

    value: float | None
    interval: tuple[float, float] | None = None
    n: int | None = None
    paper: float | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, in percentage points."""
        return None if self.value is None or self.paper is None else self.value - self.paper


def headline(run: RunData) -> dict[str, Score]:
    """The four tasks and their average beside Table 1's ClinKD row.

    The average is compared only when it is over all four tasks.
    """
    printed = dict(zip((*TASKS, "Average"), paper.TABLE_1[paper.MED_GRIT, METHOD], strict=True))
    scores = {}
    for task in TASKS:
        found = _task(run, task)
        scores[task] = Score(_percent(found.get("macro")), _interval(found.get("ci")), found.get("n"), printed[task])
    metrics = run.metrics or {}
    complete = set(metrics.get("average_of", metrics.get("tasks", ()))) == set(TASKS)
    scores["Average"] = Score(
        _percent(metrics.get("average")), _interval(metrics.get("ci")), None, printed["Average"] if complete else None
    )
    return scores


def metric_name(runs: Sequence[RunData], task: str) -> str:
    """The metric as our runs name it, else as the paper does."""
    names = dict.fromkeys(found["metric"] for run in runs if (found := _task(run, task)).get("metric"))
    return " / ".join(names) or paper.TASK_METRICS.get(task, "mean of the four tasks")


def modality_names(runs: Sequence[RunData], task: str) -> list[str]:
    """The modalities that any run or the paper has for a task, in the paper's order, others after them."""
    ours = {name for run in runs for name in _task(run, task).get("modalities", {})}
    printed = {name for name in MODALITIES if paper.TABLE_3[task][METHOD][name] is not None}
    return [name for name in MODALITIES if name in ours | printed] + sorted(ours - set(MODALITIES))


def modality_label(name: str) -> str:
    """A modality as the paper writes it."""
    return _LABELS.get(name, name[:1].upper() + name[1:])


def modality_score(run: RunData, task: str, modality: str) -> Score:
    """One modality's score beside the paper's ClinKD row of Table 3."""
    found = _task(run, task).get("modalities", {}).get(modality, {})
    printed = paper.TABLE_3[task][METHOD].get(modality)
    return Score(_percent(found.get("value")), _interval(found.get("ci")), found.get("n"), printed)


def paper_value(task: str, method: str, modality: str) -> float | None:
    """A cell of Table 3, in percent; None for a dash or a modality that the paper does not have."""
    return paper.TABLE_3[task][method].get(modality)


def caption_metrics(run: RunData) -> dict[str, Score]:
    """What mBMR is made of, and CIDEr, as means over the modalities."""
    found = _task(run, "MIA")
    return {title: Score(_percent(found[key])) for key, title in CAPTION_METRICS.items() if found.get(key) is not None}


def baselines(run: RunData) -> list[tuple[str, str, Score, dict[str, Score]]]:
    """``metrics.json``'s ``baselines``: (name, task, score, score by modality); a baseline is a part of the metrics.

    A baseline without a ``macro`` that is a number is left out; one whose ``task`` is not named is one of VG.
    """
    found = []
    for name, part in ((run.metrics or {}).get("baselines") or {}).items():
        part = part if isinstance(part, dict) else {"macro": part}
        part = part.get("VG", part)
        if isinstance(part.get("macro"), int | float):
            modalities = {
                modality: Score(_percent(values.get("value")), _interval(values.get("ci")), values.get("n"))
                for modality, values in (part.get("modalities") or {}).items()
            }
            score = Score(_percent(part["macro"]), _interval(part.get("ci")), part.get("n"))
            found.append((name.replace("_", " "), part.get("task", "VG"), score, modalities))
    return found


def _task(run: RunData, task: str) -> dict[str, Any]:
    return ((run.metrics or {}).get("tasks") or {}).get(task) or {}


def _percent(value: Any) -> float | None:
    return 100 * float(value) if isinstance(value, int | float) else None


def _interval(ci: Any) -> tuple[float, float] | None:
    return (100 * ci[0], 100 * ci[1]) if isinstance(ci, list) and len(ci) == 2 else None
