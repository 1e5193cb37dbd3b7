# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Wrappers of LLaMA Board's ``Runner``: ClinKD's keys in recipes and saved configurations, validated before a start.

Each takes LLaMA Board's function and its arguments; on a page without the accordion it returns the same result.
"""

import json
import os
import shlex
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ..rope import saved_positions
from ..utils.value_checks import split_list
from .elements import ELEMENTS, RECIPE_KEYS, TAB
from .locales import texts
from .recipe_keys import (
    CLINKD_KEYS,
    check_keys,
    from_key,
    localise_problem,
    merge_into_extra_args,
    recipe_keys,
    recipe_problem,
    split_extra_args,
)


EXTRA_ARGS = "train.extra_args"
ParseArgs = Callable[[Any, dict[Any, Any]], dict[str, Any]]


def parse_train_args(stock: ParseArgs, self: Any, data: dict[Any, Any]) -> dict[str, Any]:
    """Wraps ``Runner._parse_train_args``: adds the keys of the accordion if ``use_clinkd`` is on."""
    args = stock(self, data)
    return args | recipe_keys(_element_values(self.manager, data)) if _has_accordion(self.manager) else args


def parse_eval_args(stock: ParseArgs, self: Any, data: dict[Any, Any]) -> dict[str, Any]:
    """Wraps ``Runner._parse_eval_args``: runs the phases predict and evaluate if ``use_clinkd`` is on."""
    args = stock(self, data)
    if not (_has_accordion(self.manager) and args.get("do_predict")):
        return args
    values = _element_values(self.manager, data) | {"clinkd_phases": ["predict", "evaluate"], "eval_dataset": []}
    return args | recipe_keys(values | _checkpoint_positions(args)) if values["use_clinkd"] else args


def _checkpoint_positions(args: dict[str, Any]) -> dict[str, Any]:
    """Element values for a model's own positions: those saved beside it, else its architecture's."""
    adapters = split_list(args.get("adapter_name_or_path") or [])
    model_args = SimpleNamespace(model_name_or_path=args["model_name_or_path"], adapter_name_or_path=adapters)
    saved = saved_positions.saved_settings(model_args) or {"variant": "mrope", "image_square": False}
    values = {key: saved.get(setting) for setting, key in saved_positions.RECIPE_KEYS.items()}
    return {key: ELEMENTS[key].default if value is None else from_key(key, value) for key, value in values.items()}


def initialize(stock: Callable[..., str], self: Any, data: dict[Any, Any], do_train: bool, from_preview: bool) -> str:
    """Wraps ``Runner._initialize``: also validates the recipe before a preview, a save or a start."""
    message = stock(self, data, do_train, from_preview)
    if message or not _has_accordion(self.manager):
        return message
    lang = data[self.manager.get_elem_by_id("top.lang")]
    extra_args = json.loads(data[self.manager.get_elem_by_id(EXTRA_ARGS)]) if do_train else {}
    if not isinstance(extra_args, dict):
        from llamafactory.webui.locales import ALERTS

        return ALERTS["err_json_schema"][lang]
    if not _element_values(self.manager, data)["use_clinkd"] and CLINKD_KEYS.isdisjoint(extra_args):
        return message
    try:
        args = self._parse_train_args(data) if do_train else self._parse_eval_args(data)
    except ValueError as error:
        return str(error)
    problem = recipe_problem(args)
    return "" if problem is None else localise_problem(problem, lang)


def build_config_dict(stock: ParseArgs, self: Any, data: dict[Any, Any]) -> dict[str, Any]:
    """Wraps ``Runner._build_config_dict``: the result loads in LLaMA Board without the plugin."""
    config = {name: value for name, value in stock(self, data).items() if not name.startswith(f"{TAB}.")}
    if _has_accordion(self.manager) and EXTRA_ARGS in config:  # the Evaluate tab saves its own settings
        config[EXTRA_ARGS] = merge_into_extra_args(config[EXTRA_ARGS], _element_values(self.manager, data))
    return config


def load_args(stock: Callable[..., dict[Any, Any]], self: Any, lang: str, *args: Any) -> dict[Any, Any]:
    """Wraps ``Runner.load_args`` and ``Runner.check_output_dir``: fills the accordion from a saved configuration."""
    output = stock(self, lang, *args)
    extra_args = self.manager.get_elem_by_id(EXTRA_ARGS)
    if extra_args not in output or not _has_accordion(self.manager):
        return output
    try:
        remaining, values = split_extra_args(output[extra_args])
        check_keys(recipe_keys(values))
    except (ValueError, TypeError) as error:
        import gradio as gr

        gr.Warning(f"{texts(lang)['messages']['kept_in_extra_args']}: {error}")
        return output
    elements = {self.manager.get_elem_by_id(f"{TAB}.{name}"): value for name, value in values.items()}
    return output | {extra_args: remaining} | elements


def clean_cmd(stock: Callable[[dict[str, Any]], dict[str, Any]], args: dict[str, Any]) -> dict[str, Any]:
    """Wraps ``common._clean_cmd``: keeps ``false`` for ClinKD's keys, some of which are true by default."""
    cleaned = stock(args)
    return {key: value for key, value in args.items() if key in cleaned or (key in RECIPE_KEYS and value is False)}


def gen_cmd(stock: Callable[[dict[str, Any]], str], args: dict[str, Any]) -> str:
    """Wraps ``gen_cmd``: quotes ClinKD's values for the shell, because paths may contain spaces."""
    if os.name == "nt":
        return stock(args)
    return stock(args | {key: shlex.quote(args[key]) for key in RECIPE_KEYS if isinstance(args.get(key), str)})


def _has_accordion(manager: Any) -> bool:
    return f"{TAB}.use_clinkd" in manager._id_to_elem


def _element_values(manager: Any, data: dict[Any, Any]) -> dict[str, Any]:
    """Element -> value, from what the page sent."""
    return {name: data[manager.get_elem_by_id(f"{TAB}.{name}")] for name in ELEMENTS}
