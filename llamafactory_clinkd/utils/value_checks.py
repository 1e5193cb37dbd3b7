# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Checks of one key's name or value, with messages that name it, what is allowed, and the fix."""

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import Field
from typing import Any, Literal, get_args, get_origin


def bad_value(key: str, value: Any, allowed: str, fix: str, hint: str = "") -> ValueError:
    """The error for a value that is not allowed; ``hint`` follows the fix, as of :func:`did_you_mean`."""
    return ValueError(f"`{key}: {value}` is not allowed. Expected {allowed}. Fix: {fix}.{hint}")


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """``" Did you mean `x`?"`` with the known name that is closest to ``name``, or nothing if none is close."""
    closest = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean `{closest[0]}`?" if closest else ""


def split_list(value: str | list[Any] | tuple[Any, ...]) -> list[Any]:
    """Splits ``"a, b"`` as LLaMA-Factory does; a YAML list passes through."""
    if isinstance(value, str):
        return [part.strip() for part in value.strip("[] ").split(",") if part.strip()]
    return list(value)


def parse_numbers(key: str, value: Any, kind: Callable[[Any], Any], expected: str, example: str) -> list[Any] | None:
    """The numbers of a comma-separated value (``None`` for ``None``); ``ValueError`` if one is not a ``kind``."""
    if value is None:
        return None
    try:
        return [kind(part) for part in split_list(value)]
    except ValueError as error:
        raise bad_value(key, value, expected, example) from error


def require_type(item: Field, value: Any) -> None:
    """Raises ``ValueError`` unless the value of a switch, a text or a choice has the field's type and choices.

    YAML makes a text of ``"false"``, which counts as true, and a number of a name that consists of digits.
    """
    if value is None and item.default is None:  # a parser that has seen the field takes `None` out of its type
        return
    kinds = get_args(item.type) or (item.type,)
    if get_origin(item.type) is Literal and value not in kinds:
        fix, hint = f"choose one, e.g. {kinds[0]}", did_you_mean(value, kinds)
        raise bad_value(item.name, value, f"one of {', '.join(kinds)}", fix, hint)
    if bool in kinds and not isinstance(value, bool):
        raise bad_value(item.name, repr(value), "true or false", "write it without quotes")
    if str in kinds and not isinstance(value, kinds):
        raise bad_value(item.name, value, "a text", "write a name or a path, in quotes if it consists of digits")


def require_range(
    key: str,
    value: Any,
    *,
    minimum: float = 0,
    maximum: float,
    open_minimum: bool = False,
    integer: bool = False,
) -> None:
    """Raises ``ValueError`` unless a number lies in ``[minimum, maximum]`` (``(minimum, ...`` if ``open_minimum``)."""
    kind = "an integer" if integer else "a number"
    allowed = f"{kind} {'>' if open_minimum else '>='} {minimum:g} and <= {maximum:.15g}"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if not is_number or value != value or (integer and not is_whole):
        raise bad_value(key, value, allowed, "write a plain number")
    if value < minimum or value > maximum or (open_minimum and value == minimum):
        raise bad_value(key, value, allowed, "choose a value in that range")


def require_finite(groups: Iterable[Any]) -> None:
    """Raises ``ValueError`` for a field of an argument group that is not a number, or infinite.

    An infinite ``max_grad_norm`` is allowed: it clips nothing.
    """
    for key, value in (pair for group in groups for pair in vars(group).items()):
        if isinstance(value, float) and not math.isfinite(value) and (key, value) != ("max_grad_norm", math.inf):
            raise bad_value(key, value, "a finite number", "correct it or remove the key")
