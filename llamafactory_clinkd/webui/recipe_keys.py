# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Values of the elements to recipe keys and back, and the checks of a recipe before it starts.

A saved configuration must load in LLaMA Board after ``pip uninstall``, and LLaMA Board raises on element ids that it
does not know. So ClinKD's keys are saved within its text box of extra arguments, and taken out of it on loading.
"""

import copy
import json
import re
from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import Any

from ..arguments import PHASES, ClinkdArguments
from ..utils.value_checks import split_list
from .elements import ELEMENTS, RECIPE_KEYS, unused_elements
from .locales import texts


CLINKD_KEYS = frozenset(field.name for field in fields(ClinkdArguments))


def default_values() -> dict[str, Any]:
    """The value of every untouched element."""
    return {name: copy.copy(element.default) for name, element in ELEMENTS.items()}


def to_key(name: str, value: Any) -> Any:
    """The recipe's value of an element; ``None`` if the key is left out."""
    element = ELEMENTS[name]
    if element.kind == "phases":
        return ",".join(phase for phase in PHASES if phase in (value or []))
    if element.kind == "datasets":
        return ",".join(value or []) or None
    if name == "ref_model_quantization_bit":
        return None if value in (None, "none") else int(value)
    if name == "teacher_rope_variant" and value == element.default:
        return None  # a teacher that ClinKD saved then keeps its own positions
    if element.kind == "text":
        return (value or "").strip() or None
    if element.kind == "count":
        return _number(str(value or "").strip())
    if isinstance(element.default, float) and isinstance(value, int):
        return float(value)  # the browser writes 2.0 as 2
    return value


def _number(text: str) -> int | float | str | None:
    """The number that a text box holds; None if it is empty, the text itself for the validator to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def from_key(name: str, key_value: Any) -> Any:
    """The element's value of a recipe key, the inverse of :func:`to_key`."""
    kind = ELEMENTS[name].kind
    if kind in ("phases", "datasets"):
        return split_list(key_value)
    if kind == "text" and isinstance(key_value, list):
        return ",".join(map(str, key_value))
    return str(key_value) if kind in ("text", "count") or name == "ref_model_quantization_bit" else key_value


def recipe_keys(values: dict[str, Any]) -> dict[str, Any]:
    """The recipe keys of the elements that are used; none unless ``use_clinkd`` is on."""
    if not values["use_clinkd"]:
        return {}
    unused = unused_elements(values)
    keys = {name: to_key(name, values[name]) for name in RECIPE_KEYS if name not in unused}
    # An empty number stays None, which the recipe's validator reports.
    return {name: value for name, value in keys.items() if value is not None or ELEMENTS[name].kind == "number"}


def merge_into_extra_args(extra_args: str, values: dict[str, Any]) -> str:
    """Adds every element to the text of extra arguments, a JSON object; unchanged unless ``use_clinkd`` is on."""
    if not values["use_clinkd"]:
        return extra_args
    keys = {name: to_key(name, values[name]) for name in RECIPE_KEYS}
    merged = json.loads(extra_args) | {name: value for name, value in keys.items() if value is not None}
    return json.dumps(merged, ensure_ascii=False)


def split_extra_args(extra_args: str) -> tuple[str, dict[str, Any]]:
    """The text of extra arguments without the elements, and the value of every element.

    A text without ``"use_clinkd": true`` is returned unchanged with the default values: it may name keys such as
    ``ref_model`` for LLaMA-Factory's own methods.
    """
    values = default_values()
    keys = json.loads(extra_args)
    if not isinstance(keys, dict) or not keys.get("use_clinkd"):
        return extra_args, values
    for name in RECIPE_KEYS:
        if name in keys:
            values[name] = from_key(name, keys.pop(name))
    return json.dumps(keys, ensure_ascii=False), values


def recipe_problem(args: dict[str, Any]) -> str | None:
    """The validator's message on the arguments that ``llamafactory-cli train`` would get; ``None`` if they are valid.

    The fine-tuning and data arguments are built by the classes that the run uses. Model and training arguments are
    only read, because building them would claim a device for this process.
    """
    from llamafactory.hparams import DataArguments, ModelArguments, TrainingArguments, parser

    from ..phases.validation import check_recipe

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
    """Raises the validator's ValueError if ClinKD's keys are invalid, whatever the other keys are."""
    arguments = ClinkdArguments(**_keys_of(ClinkdArguments, values))
    arguments.ref_model = "any"
    arguments.check_clinkd()


def localise_problem(problem: str, lang: str | None) -> str:
    """A validator's message under a heading in the page's language, with label and help of the element."""
    catalogue = texts(lang)
    names = [name for name in re.findall(r"`(\w+)", problem) if name in ELEMENTS]
    element = catalogue["elements"][names[0]] if names else None
    about = f" ({element['label']}: {element['info'].rstrip('.。')})" if element else ""
    return f"{catalogue['messages']['invalid']}{about}: {problem}"


def _keys_of(group: type, args: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(group) if field.init}
    return {name: value for name, value in args.items() if name in names}


def _unchecked(group: type, args: dict[str, Any]) -> SimpleNamespace:
    """The attributes of an argument group, without running its ``__post_init__``."""
    defaults = {field.name: None if field.default is MISSING else field.default for field in fields(group)}
    return SimpleNamespace(**defaults | _keys_of(group, args))
