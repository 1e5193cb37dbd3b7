# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Attributes of modules, classes and objects, replaced for a while or for good."""

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
    """Sets an instance attribute, and restores afterwards what the instance (not its class) held.

    A model that is spread over devices holds a ``forward`` with hooks of its own, others the one of their class.
    """
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
