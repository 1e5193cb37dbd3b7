# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""ClinKD's keys inside LLaMA-Factory's own arguments."""

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..arguments import OPTIONS_WRITTEN, ClinkdArguments


def extend_finetuning_arguments(stock: type) -> type:
    """LLaMA-Factory's ``FinetuningArguments`` with the keys of :class:`ClinkdArguments` after its own.

    The subclass keeps stock's name, so that logs, model cards and error messages read as they did.
    """

    @dataclass
    class FinetuningArguments(ClinkdArguments, stock):
        def __post_init__(self) -> None:
            stock.__post_init__(self)
            self.check_clinkd()

    FinetuningArguments.__qualname__ = stock.__qualname__
    FinetuningArguments.__doc__ = stock.__doc__
    return FinetuningArguments


def noting_options(parse: Callable[..., Any], read_args: Callable[[Any], Any]) -> Callable[..., Any]:
    """LLaMA-Factory's ``_parse_args`` during which it is known which options a command line has.

    A recipe (a dictionary) hands over what it has; argparse hands over every default too.
    """

    @functools.wraps(parse)
    def _parse_args(argument_parser: argparse.ArgumentParser, args: Any = None, *rest: Any, **keys: Any) -> Any:
        args = read_args(args)
        token = OPTIONS_WRITTEN.set(None if isinstance(args, dict) else _written_options(argument_parser, args))
        try:
            return parse(argument_parser, args, *rest, **keys)
        finally:
            OPTIONS_WRITTEN.reset(token)

    return _parse_args


def _written_options(parser: argparse.ArgumentParser, args: list[str]) -> frozenset[str]:
    """The names of the options in ``args``: argparse leaves an attribute that is there already at its value."""
    unset = object()
    found = argparse.Namespace(**{action.dest: unset for action in parser._actions})
    parser.parse_known_args(args, found)
    return frozenset(name for name, value in vars(found).items() if value is not unset)


def resumable_folder(folder: str) -> str | None:
    """A ClinKD ``output_dir`` resumes by its ``clinkd/state.json``, with or without a stock checkpoint in it.

    Stock refuses to run in a folder that holds a model and no checkpoint, which a finished procedure is; each phase
    finds its own checkpoint, so the value only has to be a path.
    """
    state = Path(folder) / "clinkd" / "state.json"
    return str(state.parent) if state.is_file() else None


def refuse_v1(recipe: dict[str, Any]) -> None:
    """Refuses a recipe with ClinKD keys under ``USE_V1=1``.

    Raises:
        ValueError: If the recipe has any ClinKD key.
    """
    keys = {item.name for item in fields(ClinkdArguments)}
    found = sorted(key for key in recipe if key in keys)
    if found:
        raise ValueError(
            f"Found the ClinKD keys {', '.join(found)} with USE_V1=1: ClinKD extends LLaMA-Factory's default (v0) "
            "trainer only. Unset USE_V1 and run the same recipe, or remove these keys."
        )
