# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What has been replaced, and how to put it back."""

from collections.abc import Callable
from types import ModuleType
from typing import Any


class Registry:
    """The plugin's replaced objects in this process.

    Attributes:
        attached: Whether hooks may patch.
        watched: Names of modules that a hook has been registered for.
        seams: Module name -> ``"patched"`` or the error of its hook.
        error: The first error of attaching, raised when a recipe asks for ClinKD.
    """

    def __init__(self) -> None:
        self.attached = False
        self.watched: set[str] = set()
        self.seams: dict[str, str] = {}
        self.error: Exception | None = None
        self._undo: list[Callable[[], None]] = []

    def run(self, name: str, hook: Callable[[ModuleType], None], module: ModuleType) -> None:
        """Runs a hook unless detached; an error is kept, because it would break somebody's import."""
        if not self.attached or self.seams.get(name) == "patched":
            return
        try:
            hook(module)
            self.seams[name] = "patched"
        except Exception as error:
            self.seams[name] = f"{type(error).__name__}: {error}"
            self.error = self.error or error

    def replace(self, owner: Any, attribute: str, value: Any) -> None:
        """Sets ``owner.attribute`` and remembers the original object."""
        original = getattr(owner, attribute)
        setattr(owner, attribute, value)
        self._undo.append(lambda: setattr(owner, attribute, original))

    def replace_items(self, items: list[Any], old: Any, new: Any) -> None:
        """Replaces ``old`` by ``new`` (by identity) inside a list that others hold a reference to."""
        for index, item in enumerate(items):
            if item is old:
                items[index] = new
                self._undo.append(lambda index=index: items.__setitem__(index, old))

    def undo(self) -> None:
        """Puts everything back, last replacement first."""
        while self._undo:
            self._undo.pop()()
        self.seams.clear()

    def raise_kept_error(self) -> None:
        """Raises what went wrong while attaching.

        Raises:
            RuntimeError: If a seam could not be patched.
        """
        if self.error is not None:
            raise RuntimeError(
                f"llamafactory-clinkd could not attach to LLaMA-Factory: {self.error} "
                "Run `clinkd doctor` for every seam; without `use_clinkd` training is stock."
            ) from self.error


REGISTRY = Registry()
