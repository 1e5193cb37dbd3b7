# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The Evaluate & Predict tab with ClinKD on: candidates, selection, the four metrics and the report."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ..rope.saved_positions import saved_settings
from ..utils.boxes import MODALITIES, TASKS
from ..utils.value_checks import split_list
from .accordion import TAB, more_base_elements
from .elements import BOXES
from .locales import texts
from .recipe_boxes import recipe_keys
from .stock_runner import box_values, has_boxes


PHASES = ["predict", "evaluate"]


def create_eval_tab(engine: Any, stock: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Builds stock's tab, whose preview and start also read the boxes of the Train tab."""
    boxes = {engine.manager.get_elem_by_id(f"{TAB}.{name}") for name in BOXES}
    with more_base_elements(engine.manager, boxes):
        return stock(engine)


def with_selection(stock: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """``Runner._parse_eval_args`` that runs the phases prediction and evaluation when ``use_clinkd`` is on."""

    @functools.wraps(stock)
    def _parse_eval_args(self: Any, data: dict[Any, Any]) -> dict[str, Any]:
        args = stock(self, data)
        if not (has_boxes(self.manager) and args.get("do_predict")):
            return args
        values = box_values(self.manager, data) | {"clinkd_phases": PHASES, "eval_dataset": []}
        return args | recipe_keys(values | positions_of_checkpoint(args)) if values["use_clinkd"] else args

    return _parse_eval_args


def positions_of_checkpoint(args: dict[str, Any]) -> dict[str, Any]:
    """Values of the boxes of a model's own positions: those saved beside it, else its architecture's."""
    adapters = split_list(args.get("adapter_name_or_path") or [])
    saved = saved_settings(
        SimpleNamespace(model_name_or_path=args["model_name_or_path"], adapter_name_or_path=adapters)
    ) or {"variant": "mrope", "image_square": False}
    return {
        "rope_variant": saved["variant"],
        "mcg_alpha_h": saved.get("alpha_h", 1),
        "mcg_alpha_w": saved.get("alpha_w", 1),
        "mcg_gap": saved.get("gap", 2),
        "rope_sections": ",".join(map(str, saved.get("sections") or [])),
        "image_square": saved.get("image_square", True),
    }


def metrics_markdown(metrics: dict[str, Any], lang: str | None) -> str:
    """``metrics.json`` as a Markdown table in percent: a row for each modality, a column for each task.

    Args:
        metrics: What :func:`llamafactory_clinkd.evaluate.evaluate_predictions` returns.
        lang: The page's language.
    """
    words = texts(lang)["messages"]
    tasks = {name: metrics["tasks"][name] for name in TASKS if name in metrics["tasks"]}
    present = {name for task in tasks.values() for name in task["modalities"]}
    names = [name for name in MODALITIES if name in present] + sorted(present - set(MODALITIES))
    rows = [
        [words["modality"], *(f"{name} (`{task['metric']}`)" for name, task in tasks.items())],
        ["---", *("---:" for _ in tasks)],
    ]
    for name in names:
        values = [task["modalities"].get(name, {}).get("value") for task in tasks.values()]
        rows.append([name, *map(_percent, values)])
    rows.append([f"**{words['mean']}**", *(f"**{_percent(task['macro'])}**" for task in tasks.values())])
    rows.append([words["rows"], *(str(task["n"]) for task in tasks.values())])
    notes = [words["average"].format(value=_percent(metrics["average"])), *metrics.get("notes", [])]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", *notes])


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"
