# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Boxes to recipe keys and back.

A saved configuration must load in stock LLaMA Board after ``pip uninstall``, and stock raises on ids that it does not
know: ClinKD's keys are folded into its box of extra arguments, and unfolded when the configuration is loaded here.
"""

import json
import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import Any

from ..arguments import PHASES, ClinkdArguments
from ..utils.value_checks import split_list
from .elements import BOXES, NOT_IN_RECIPE, inapplicable
from .locales import texts


RECIPE_KEYS = tuple(name for name in BOXES if name not in NOT_IN_RECIPE)


def default_values() -> dict[str, Any]:
    """The value of every untouched box."""
    return {name: list(box.default) if isinstance(box.default, list) else box.default for name, box in BOXES.items()}


def to_key(name: str, value: Any) -> Any:
    """The recipe's value of a box; ``None`` where the key is left out."""
    box = BOXES[name]
    if box.kind == "phases":
        return ",".join(phase for phase in PHASES if phase in (value or []))
    if box.kind == "datasets":
        return ",".join(value or []) or None
    if name == "ref_model_quantization_bit":
        return None if value in (None, "none") else int(value)
    if name == "teacher_rope_variant" and value == box.default:
        return None  # as its label says, a teacher then keeps what was saved with it
    if box.kind == "text":
        return (value or "").strip() or None
    if box.kind == "count":
        text = str(value or "").strip()
        return (int(text) if text.removeprefix("-").isdecimal() else text) if text else None
    if isinstance(box.default, float) and isinstance(value, int):
        return float(value)  # the browser writes 2.0 as 2; a YAML recipe has the same value as the key's type says
    return value


def to_box(name: str, key_value: Any) -> Any:
    """The box's value of a recipe's key, the inverse of :func:`to_key`."""
    kind = BOXES[name].kind
    if kind in ("phases", "datasets"):
        return split_list(key_value)
    if name == "ref_model_quantization_bit":
        return str(key_value)
    if kind == "count":
        return str(key_value)
    if kind == "text":
        return ",".join(map(str, key_value)) if isinstance(key_value, list) else str(key_value)
    return key_value


def recipe_keys(values: dict[str, Any]) -> dict[str, Any]:
    """The recipe keys of the boxes that apply; nothing unless ``use_clinkd`` is on.

    A number that was left empty stays in as ``None``, so that the recipe's validator answers it.
    """
    if not values["use_clinkd"]:
        return {}
    unused = inapplicable(values)
    keys = {name: to_key(name, values[name]) for name in RECIPE_KEYS if name not in unused}
    return {name: value for name, value in keys.items() if value is not None or BOXES[name].kind == "number"}


def fold(extra_args: str, values: dict[str, Any]) -> str:
    """Puts every box into the text of extra arguments; nothing unless ``use_clinkd`` is on.

    Args:
        extra_args: A JSON object.
        values: Box -> value.
    """
    if not values["use_clinkd"]:
        return extra_args
    keys = {name: to_key(name, values[name]) for name in RECIPE_KEYS}
    folded = json.loads(extra_args) | {name: value for name, value in keys.items() if value is not None}
    return json.dumps(folded, ensure_ascii=False)


def unfold(extra_args: str) -> tuple[str, dict[str, Any]]:
    """Takes the boxes out of the text of extra arguments.

    Returns:
        The remaining text, and the value of every box. A text without ``"use_clinkd": true`` comes back as it is, with
        the default values: it may name stock keys such as ``ref_model`` for stock's own methods.
    """
    values = default_values()
    keys = json.loads(extra_args)
    if not isinstance(keys, dict) or not keys.get("use_clinkd"):
        return extra_args, values
    for name in RECIPE_KEYS:
        if name in keys:
            values[name] = to_box(name, keys.pop(name))
    return json.dumps(keys, ensure_ascii=False), values


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
