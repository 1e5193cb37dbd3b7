# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Replaces attributes of modules, classes and instances, within a block or permanently."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any


@contextmanager
def patch_attr(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replaces an attribute of a module or class, and restores the very object afterwards."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def patch_instance(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Sets an instance attribute, and restores afterwards what the instance (not its class) held, such as a hook."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
        if before is not None:
            setattr(owner, name, before)


def bind_method(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Makes ``function`` a method of one instance; ``del owner.name`` brings the method of its class back."""
    setattr(owner, name, MethodType(function, owner))
