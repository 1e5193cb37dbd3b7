# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Wrappers of stock's ``Runner``: ClinKD's keys in the recipe, in saved configurations, and checked before a start.

Each function takes the stock function and returns its replacement, which is stock on a page without the accordion.
"""

import functools
import json
import os
import shlex
from collections.abc import Callable
from typing import Any

from .accordion import TAB
from .elements import BOXES
from .locales import texts
from .recipe_boxes import RECIPE_KEYS, fold, recipe_keys, unfold
from .validation import CLINKD_KEYS, check_keys, in_language, recipe_problem


EXTRA_ARGS = "train.extra_args"


def with_clinkd_keys(stock: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """``Runner._parse_train_args`` with the keys of the boxes, when ``use_clinkd`` is on."""

    @functools.wraps(stock)
    def _parse_train_args(self: Any, data: dict[Any, Any]) -> dict[str, Any]:
        args = stock(self, data)
        return args | recipe_keys(box_values(self.manager, data)) if has_boxes(self.manager) else args

    return _parse_train_args


def with_validation(stock: Callable[..., str], check_recipe: Callable[[Any], None]) -> Callable[..., str]:
    """``Runner._initialize`` that also asks the recipe's validators before a preview, a save or a start."""

    @functools.wraps(stock)
    def _initialize(self: Any, data: dict[Any, Any], do_train: bool, from_preview: bool) -> str:
        error = stock(self, data, do_train, from_preview)
        if error or not has_boxes(self.manager):
            return error

        lang = data[self.manager.get_elem_by_id("top.lang")]
        extra_args = json.loads(data[self.manager.get_elem_by_id(EXTRA_ARGS)]) if do_train else {}
        if not isinstance(extra_args, dict):
            from llamafactory.webui.locales import ALERTS

            return ALERTS["err_json_schema"][lang]
        if not box_values(self.manager, data)["use_clinkd"] and not any(key in CLINKD_KEYS for key in extra_args):
            return error
        try:
            args = self._parse_train_args(data) if do_train else self._parse_eval_args(data)
        except ValueError as bad_number:
            return str(bad_number)
        problem = recipe_problem(args, check_recipe)
        return "" if problem is None else in_language(problem, lang)

    return _initialize


def with_folded_keys(stock: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """``Runner._build_config_dict`` whose result loads in stock LLaMA Board."""

    @functools.wraps(stock)
    def _build_config_dict(self: Any, data: dict[Any, Any]) -> dict[str, Any]:
        config = {name: value for name, value in stock(self, data).items() if not name.startswith(f"{TAB}.")}
        if has_boxes(self.manager) and EXTRA_ARGS in config:  # the Evaluate tab saves its own settings
            config[EXTRA_ARGS] = fold(config[EXTRA_ARGS], box_values(self.manager, data))
        return config

    return _build_config_dict


def with_unfolded_keys(stock: Callable[..., dict[Any, Any]]) -> Callable[..., dict[Any, Any]]:
    """``Runner.load_args`` and ``Runner.check_output_dir`` that fill the boxes from a saved configuration."""

    @functools.wraps(stock)
    def load(self: Any, lang: str, *rest: Any) -> dict[Any, Any]:
        output = stock(self, lang, *rest)
        extra_box = self.manager.get_elem_by_id(EXTRA_ARGS)
        if extra_box not in output or not has_boxes(self.manager):
            return output

        try:
            remaining, values = unfold(output[extra_box])
            check_keys(recipe_keys(values))
        except (ValueError, TypeError) as error:
            import gradio as gr

            gr.Warning(f"{texts(lang)['messages']['kept_in_extra_args']}: {error}")
            return output
        output[extra_box] = remaining
        for name, value in values.items():
            output[self.manager.get_elem_by_id(f"{TAB}.{name}")] = value
        return output

    return load


def keeping_false(stock: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """``common._clean_cmd`` that keeps ``false`` for our keys, some of which are true by default."""

    @functools.wraps(stock)
    def _clean_cmd(args: dict[str, Any]) -> dict[str, Any]:
        kept = stock(args)
        return {key: value for key, value in args.items() if key in kept or (key in RECIPE_KEYS and value is False)}

    return _clean_cmd


def quoting(stock: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], str]:
    """``gen_cmd`` that quotes our values for the shell: paths may hold spaces."""

    @functools.wraps(stock)
    def gen_cmd(args: dict[str, Any]) -> str:
        if os.name == "nt":
            return stock(args)
        ours = {key: shlex.quote(args[key]) for key in RECIPE_KEYS if isinstance(args.get(key), str)}
        return stock(args | ours)

    return gen_cmd


def has_boxes(manager: Any) -> bool:
    """Whether this page has the accordion."""
    return f"{TAB}.use_clinkd" in manager._id_to_elem


def box_values(manager: Any, data: dict[Any, Any]) -> dict[str, Any]:
    """Box -> value, from what the page sent."""
    return {name: data[manager.get_elem_by_id(f"{TAB}.{name}")] for name in BOXES}
