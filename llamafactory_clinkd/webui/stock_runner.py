# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Wrappers of stock's ``Runner``: ClinKD's keys in the recipe, in saved configurations, and checked before a start.

Each function takes the stock function and returns its replacement, which is stock on a page without the accordion.
"""

import copy
import functools
import json
import os
import shlex
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from .accordion import TAB
from .elements import BOXES
from .locales import texts
from .recipe_boxes import CLINKD_KEYS, RECIPE_KEYS, check_keys, fold, in_language, recipe_keys, recipe_problem, unfold


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


def view_of_page(runner: Any) -> Any:
    """The runner as one page sees it while it watches the present run.

    The view keeps its own ``trainer`` and ``running_data``, so another page's end takes nothing away. Whether the run
    was aborted is read where every page and the Abort button see it. The page that ends first empties the runner, as
    stock's does; a run started since is left alone.

    Args:
        runner: Stock's ``Runner``, shared by all pages, which watches a process (``runner.trainer``).

    Returns:
        An instance of a subclass of the runner's class. Without a process, the runner itself.
    """
    process = runner.trainer
    if process is None:
        return runner
    one_reader_at_a_time(process)
    runner.running = True
    if not hasattr(process, "aborted"):  # the first page to watch it: an Abort pressed before was of no run
        process.aborted = runner.aborted = False

    class PageView(type(runner)):
        """See :func:`view_of_page`."""

        @property
        def aborted(self) -> bool:
            if runner.trainer is process:
                return runner.aborted
            return process.aborted

        @aborted.setter
        def aborted(self, value: bool) -> None:
            """Stock's monitor starts with False: a page that comes later must not undo an abort under way."""

        def _finalize(self, lang: str, finish_info: str) -> None:
            if runner.trainer is process:
                process.aborted = runner.aborted
                runner.trainer, runner.running_data, runner.aborted, runner.running = None, None, False, False
            super()._finalize(lang, finish_info)

    view = copy.copy(runner)
    view.__dict__.pop("aborted")
    view.__class__ = PageView
    return view


def one_reader_at_a_time(process: subprocess.Popen) -> None:
    """Lets several pages that watch one run wait for it in turn.

    Stock's monitor of each page calls ``communicate`` in a thread of its own; two at once end in EBADF, and the page
    that lost never says that the run has ended.
    """
    if "communicate" in vars(process):
        return
    stock, lock = process.communicate, threading.Lock()

    @functools.wraps(stock)
    def communicate(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        with lock:
            return stock(*args, **kwargs)

    process.communicate = communicate
