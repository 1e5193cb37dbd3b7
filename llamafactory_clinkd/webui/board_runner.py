# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Wrappers of LLaMA Board's ``Runner``: ClinKD's keys in recipes and saved configurations, validated before a start.

Each function takes LLaMA Board's function and returns its replacement, which does the same on a page without the
accordion.
"""

import functools
import json
import os
import shlex
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ..rope.saved_positions import saved_settings
from ..utils.value_checks import split_list
from .elements import ELEMENTS, RECIPE_KEYS, TAB
from .locales import texts
from .recipe_keys import (
    CLINKD_KEYS,
    check_keys,
    localise_problem,
    merge_into_extra_args,
    recipe_keys,
    recipe_problem,
    split_extra_args,
)


EXTRA_ARGS = "train.extra_args"
EVAL_PHASES = ["predict", "evaluate"]


def with_train_keys(stock: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """``Runner._parse_train_args`` with the keys of the accordion, if ``use_clinkd`` is on."""

    @functools.wraps(stock)
    def _parse_train_args(self: Any, data: dict[Any, Any]) -> dict[str, Any]:
        args = stock(self, data)
        return args | recipe_keys(_element_values(self.manager, data)) if _has_accordion(self.manager) else args

    return _parse_train_args


def with_eval_keys(stock: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """``Runner._parse_eval_args`` that runs the phases predict and evaluate if ``use_clinkd`` is on."""

    @functools.wraps(stock)
    def _parse_eval_args(self: Any, data: dict[Any, Any]) -> dict[str, Any]:
        args = stock(self, data)
        if not (_has_accordion(self.manager) and args.get("do_predict")):
            return args
        values = _element_values(self.manager, data) | {"clinkd_phases": EVAL_PHASES, "eval_dataset": []}
        return args | recipe_keys(values | _checkpoint_positions(args)) if values["use_clinkd"] else args

    return _parse_eval_args


def _checkpoint_positions(args: dict[str, Any]) -> dict[str, Any]:
    """Element values for a model's own positions: those saved beside it, else its architecture's."""
    adapters = split_list(args.get("adapter_name_or_path") or [])
    model_args = SimpleNamespace(model_name_or_path=args["model_name_or_path"], adapter_name_or_path=adapters)
    saved = saved_settings(model_args) or {"variant": "mrope", "image_square": False}
    return {
        "rope_variant": saved["variant"],
        "mcg_alpha_h": saved.get("alpha_h", 1),
        "mcg_alpha_w": saved.get("alpha_w", 1),
        "mcg_gap": saved.get("gap", 2),
        "rope_sections": ",".join(map(str, saved.get("sections") or [])),
        "image_square": saved.get("image_square", True),
    }


def with_validation(stock: Callable[..., str], check_recipe: Callable[[Any], None]) -> Callable[..., str]:
    """``Runner._initialize`` that also validates the recipe before a preview, a save or a start."""

    @functools.wraps(stock)
    def _initialize(self: Any, data: dict[Any, Any], do_train: bool, from_preview: bool) -> str:
        error = stock(self, data, do_train, from_preview)
        if error or not _has_accordion(self.manager):
            return error

        lang = data[self.manager.get_elem_by_id("top.lang")]
        extra_args = json.loads(data[self.manager.get_elem_by_id(EXTRA_ARGS)]) if do_train else {}
        if not isinstance(extra_args, dict):
            from llamafactory.webui.locales import ALERTS

            return ALERTS["err_json_schema"][lang]
        if not _element_values(self.manager, data)["use_clinkd"] and CLINKD_KEYS.isdisjoint(extra_args):
            return error
        try:
            args = self._parse_train_args(data) if do_train else self._parse_eval_args(data)
        except ValueError as bad_number:
            return str(bad_number)
        problem = recipe_problem(args, check_recipe)
        return "" if problem is None else localise_problem(problem, lang)

    return _initialize


def with_portable_config(stock: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """``Runner._build_config_dict`` whose result loads in LLaMA Board without the plugin."""

    @functools.wraps(stock)
    def _build_config_dict(self: Any, data: dict[Any, Any]) -> dict[str, Any]:
        config = {name: value for name, value in stock(self, data).items() if not name.startswith(f"{TAB}.")}
        if _has_accordion(self.manager) and EXTRA_ARGS in config:  # the Evaluate tab saves its own settings
            config[EXTRA_ARGS] = merge_into_extra_args(config[EXTRA_ARGS], _element_values(self.manager, data))
        return config

    return _build_config_dict


def with_restored_elements(stock: Callable[..., dict[Any, Any]]) -> Callable[..., dict[Any, Any]]:
    """``Runner.load_args`` and ``Runner.check_output_dir`` that fill the accordion from a saved configuration."""

    @functools.wraps(stock)
    def load(self: Any, lang: str, *args: Any) -> dict[Any, Any]:
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

    return load


def with_false_values(stock: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """``common._clean_cmd`` that keeps ``false`` for ClinKD's keys, some of which are true by default."""

    @functools.wraps(stock)
    def _clean_cmd(args: dict[str, Any]) -> dict[str, Any]:
        cleaned = stock(args)
        return {key: value for key, value in args.items() if key in cleaned or (key in RECIPE_KEYS and value is False)}

    return _clean_cmd


def with_quoted_values(stock: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], str]:
    """``gen_cmd`` that quotes ClinKD's values for the shell: paths may contain spaces."""

    @functools.wraps(stock)
    def gen_cmd(args: dict[str, Any]) -> str:
        if os.name == "nt":
            return stock(args)
        return stock(args | {key: shlex.quote(args[key]) for key in RECIPE_KEYS if isinstance(args.get(key), str)})

    return gen_cmd


def _has_accordion(manager: Any) -> bool:
    return f"{TAB}.use_clinkd" in manager._id_to_elem


def _element_values(manager: Any, data: dict[Any, Any]) -> dict[str, Any]:
    """Element -> value, from what the page sent."""
    return {name: data[manager.get_elem_by_id(f"{TAB}.{name}")] for name in ELEMENTS}
