# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Checks of one key's value, with messages that name key, value, what is allowed, and the fix."""

import math
from collections.abc import Callable
from dataclasses import Field
from typing import Any, Literal, get_args, get_origin


def bad_value(key: str, value: Any, allowed: str, fix: str) -> ValueError:
    """The error for a value that is not allowed."""
    return ValueError(f"`{key}: {value}` is not allowed. Expected {allowed}. Fix: {fix}.")


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


def require_choice(item: Field, value: Any) -> None:
    """Raises ``ValueError`` if ``value`` is not among the choices of a ``Literal`` field."""
    if get_origin(item.type) is Literal and value not in get_args(item.type):
        choices = get_args(item.type)
        raise bad_value(item.name, value, f"one of {', '.join(choices)}", f"choose one, e.g. {choices[0]}")


def require_range(
    key: str,
    value: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    open_minimum: bool = False,
    integer: bool = False,
) -> None:
    """Raises ``ValueError`` unless a number lies in ``[minimum, maximum]`` (``(minimum, ...`` if ``open_minimum``)."""
    kind = "an integer" if integer else "a number"
    low = "" if minimum is None else f" {'>' if open_minimum else '>='} {minimum:g}"
    high = "" if maximum is None else f" and <= {maximum:g}"
    allowed = f"{kind}{low}{high}"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    if not is_number or (integer and value != int(value)):
        raise bad_value(key, value, allowed, "write a plain number")
    too_low = minimum is not None and (value <= minimum if open_minimum else value < minimum)
    if too_low or (maximum is not None and value > maximum):
        raise bad_value(key, value, allowed, "choose a value in that range")
