# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The keys of a recipe or a command line as they were written: which are known, and which were meant."""

import argparse
import logging
from dataclasses import fields
from typing import Any

from ..arguments import ClinkdArguments
from ..utils.value_checks import did_you_mean


logger = logging.getLogger(__name__)


def read_keys(parser: argparse.ArgumentParser, args: dict[str, Any] | list[str]) -> tuple[list[str], frozenset[str]]:
    """The keys or options that no group has, and those that were written.

    argparse does not overwrite an attribute of a namespace with a default.
    """
    known = {item.name for group in parser.dataclass_types for item in fields(group) if item.init}
    if isinstance(args, dict):
        return [key for key in args if key not in known], frozenset(args)
    unset = object()
    namespace = argparse.Namespace(**{action.dest: unset for action in parser._actions})
    _, extras = parser.parse_known_args(args, namespace)
    unknown = [text.lstrip("-").split("=")[0] for text in extras if text.startswith("--")]
    return unknown, frozenset(name for name, value in vars(namespace).items() if value is not unset)


def report_unknown_keys(
    parser: argparse.ArgumentParser, unknown: list[str], args: dict[str, Any] | list[str], *, allowed: bool
) -> None:
    """Refuses keys that nothing reads in a ClinKD recipe, with the key that was meant; stock refuses them elsewhere.

    Stock ignores them all if ``allowed`` (``ALLOW_EXTRA_ARGS``); then they are only reported.
    """
    ours = {item.name for item in fields(ClinkdArguments)}
    keys = args if isinstance(args, dict) else (str(arg).lstrip("-").split("=")[0] for arg in args)
    if not unknown or not (ours & set(keys) or any(did_you_mean(key, ours) for key in unknown)):
        return
    known = [item.name for group in parser.dataclass_types for item in fields(group) if item.init]
    message = " ".join(f"`{key}` is no key of a recipe.{did_you_mean(key, known)}" for key in unknown)
    if not allowed:
        raise ValueError(f"{message} Correct or remove it. docs/configuration.md lists ClinKD's keys.")
    logger.warning("%s It has no effect, and ALLOW_EXTRA_ARGS lets the run start.", message)
