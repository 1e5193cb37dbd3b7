# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""An attribute of one object, replaced for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def overridden(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Sets an instance attribute and afterwards restores what the instance (not its class) held.

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
