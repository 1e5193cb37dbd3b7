# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The recipe's own validators, asked by the page before a run starts; there is no second one."""

import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import Any

from ..arguments import ClinkdArguments
from .elements import BOXES
from .locales import texts


CLINKD_KEYS = frozenset(item.name for item in fields(ClinkdArguments))


def recipe_problem(args: dict[str, Any], check_recipe: Callable[[Any], None]) -> str | None:
    """What is wrong with the arguments of a training run.

    The fine-tuning and data arguments are built by the classes that the run itself will use. Model and training
    arguments are only read, because building them would claim a device for this process.

    Args:
        args: What ``llamafactory-cli train`` would get.
        check_recipe: What the procedure calls first, with ``model``, ``data``, ``training`` and ``finetuning``.

    Returns:
        The validator's text, ``None`` if nothing is wrong.
    """
    from llamafactory.hparams import DataArguments, ModelArguments, TrainingArguments, parser

    finetuning_class = next(group for group in parser._TRAIN_ARGS if issubclass(group, ClinkdArguments))
    try:
        arguments = SimpleNamespace(
            finetuning=finetuning_class(**_keys_of(finetuning_class, args)),
            data=DataArguments(**_keys_of(DataArguments, args)),
            model=_unchecked(ModelArguments, args),
            training=_unchecked(TrainingArguments, args),
        )
        if arguments.finetuning.use_clinkd:
            check_recipe(arguments)
    except (ValueError, TypeError, AssertionError, OSError) as error:
        return str(error)
    return None


def check_keys(values: dict[str, Any]) -> None:
    """Checks values of ClinKD's keys by themselves; conflicts with other keys are not looked at.

    Raises:
        ValueError: With the validator's text.
    """
    arguments = ClinkdArguments(**{name: value for name, value in values.items() if name in CLINKD_KEYS})
    arguments.ref_model = "any"
    arguments.check_clinkd()


def in_language(problem: str, lang: str | None) -> str:
    """A validator's text under a heading in the page's language: the label and the help of its box."""
    catalogue = texts(lang)
    names = [name for name in re.findall(r"`(\w+)", problem) if name in BOXES]
    words = catalogue["elements"][names[0]] if names else None
    about = f" ({words['label']}: {words['info'].rstrip('.。')})" if words else ""
    return f"{catalogue['messages']['invalid']}{about}: {problem}"


def _keys_of(group: type, args: dict[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(group) if item.init}
    return {name: value for name, value in args.items() if name in names}


def _unchecked(group: type, args: dict[str, Any]) -> SimpleNamespace:
    """The attributes of an argument group, without running its ``__post_init__``."""
    defaults = {item.name: None if item.default is MISSING else item.default for item in fields(group)}
    return SimpleNamespace(**defaults | _keys_of(group, args))
