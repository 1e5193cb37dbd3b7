# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Presets of the accordion: values of the page's elements, read from the recipes that the package ships."""

import json
from pathlib import Path
from typing import Any

import yaml

from ..utils.value_checks import split_list
from .elements import GROUPS, RECIPE_KEYS, TAB
from .recipe_keys import default_values, from_key


PACKAGE = Path(__file__).parents[1]
PRESETS = {
    "paper": "webui/recipes/clinkd_distill.yaml",
    "distill": "webui/recipes/kd_only.yaml",
    "on_policy": "webui/recipes/kd_on_policy.yaml",
    "demo": "demo/clinkd_demo.yaml",
}
DEMO_MODEL = "ClinKD-demo"  # among LLaMA Board's models, so that choosing it fills in path and template
KEPT = ("eval_dataset", *GROUPS["distillation"][0])  # the user's own data and teacher
STOCK = {"per_device_train_batch_size": "batch_size"}  # keys under which LLaMA Board has another name
UNMAPPED = {"stage", "do_train", "trust_remote_code", "plot_loss", "output_dir", "template", "model_name_or_path"}


def register_demo_model(path: str | Path = PACKAGE / "demo" / "models" / "base") -> None:
    """Adds the demo's model, or that of a finished demo, to the models of LLaMA Board."""
    from llamafactory.extras.constants import DownloadSource, register_model_group

    register_model_group({DEMO_MODEL: {DownloadSource.DEFAULT: str(path)}}, template="qwen2_vl", multimodal=True)


def preset_values(name: str, stock: dict[str, Any]) -> dict[str, Any]:
    """Id of an element of the page -> its value, for a key of :data:`PRESETS`; ``stock`` is the stock Train tab's.

    Boxes whose key the recipe does not name get their default. Test data and teacher stay, but for ``demo``, which
    also fills LLaMA Board's own elements; keys without one go into its extra arguments.
    """
    keys = yaml.safe_load((PACKAGE / PRESETS[name]).read_text(encoding="utf-8"))
    keys = {key: _in_package(value) for key, value in keys.items() if key not in UNMAPPED}
    values = default_values() | {key: from_key(key, keys.pop(key)) for key in RECIPE_KEYS if key in keys}
    if name != "demo":
        values = {key: value for key, value in values.items() if key not in KEPT}
    found = {f"{TAB}.{key}": value for key, value in values.items()}
    return found | _stock_values(keys, stock) if name == "demo" else found


def _stock_values(keys: dict[str, Any], stock: dict[str, Any]) -> dict[str, Any]:
    """Values of LLaMA Board's own elements."""
    compute = next((key for key in ("bf16", "fp16", "pure_bf16") if keys.pop(key, False)), "fp32")
    found = {"top.model_name": DEMO_MODEL, "top.finetuning_type": keys.pop("finetuning_type")}
    found["train.compute_type"], extra = compute, {"optim": "adamw_torch"}
    for key, value in keys.items():
        element = stock.get(STOCK.get(key, key))
        if element is None:
            extra[key] = value
            continue
        is_text = element.get_block_name() == "textbox"
        is_list = getattr(element, "multiselect", False)
        found[f"train.{STOCK.get(key, key)}"] = str(value) if is_text else split_list(value) if is_list else value
    return found | {"train.extra_args": json.dumps(extra)}


def _in_package(value: Any) -> Any:
    """``value``, with a path below the package made absolute."""
    inside = isinstance(value, str) and value.startswith(f"{PACKAGE.name}/")
    return str(PACKAGE.parent / value) if inside else value
