# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What has been replaced in LLaMA-Factory, how to restore it, and when to replace it: when a module is imported."""

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class Registry:
    """The plugin's replaced objects in this process."""

    def __init__(self) -> None:
        self.attached = False  # whether hooks may patch
        self.watched: set[str] = set()  # modules that a hook has been registered for
        self.seams: dict[str, str] = {}  # module -> "patched" or the error of its hook
        self.error: Exception | None = None  # the first one
        self._undo: list[Callable[[], None]] = []

    def run(self, name: str, hook: Callable[[ModuleType], None], module: ModuleType) -> None:
        """Runs a hook unless detached; keeps an error, because raising it would break somebody's import."""
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
        """Replaces ``old`` by ``new`` (by identity) inside a list that other modules hold a reference to."""
        for index, item in enumerate(items):
            if item is old:
                items[index] = new
                self._undo.append(lambda index=index: items.__setitem__(index, old))

    def wrap(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> Callable[..., Any]:
        """Replaces a function by ``wrapper(original, *args, **kwargs)`` until :meth:`undo`; returns the new one."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs) if self.attached else original(*args, **kwargs)

        self.replace(owner, name, wrapped)
        return wrapped

    def undo(self) -> None:
        """Restores every original object, last replacement first."""
        while self._undo:
            self._undo.pop()()
        self.seams.clear()

    def raise_kept_error(self) -> None:
        """Raises ``RuntimeError`` if a seam could not be patched."""
        if self.error is not None:
            raise RuntimeError(
                f"llamafactory-clinkd could not attach to LLaMA-Factory: {self.error} "
                "Run `clinkd doctor` for every seam; without `use_clinkd` training is stock."
            ) from self.error


REGISTRY = Registry()


def when_imported(name: str, callback: Callable[[ModuleType], None]) -> None:
    """Calls ``callback(module)`` once: now if the module is complete, else when it is (see ``docs/attaching.md``)."""
    import wrapt  # not in an environment of vLLM, where torch calls `autoload`, too

    module = sys.modules.get(name)
    if module is None or not _is_initializing(module):
        wrapt.register_post_import_hook(callback, name)
        return

    original_class = module.__class__

    class PendingModule(original_class):
        def __getattribute__(self, attribute: str) -> Any:
            if not attribute.startswith("__") and not _is_initializing(self):
                object.__setattr__(self, "__class__", original_class)
                callback(self)
                return getattr(self, attribute)
            return super().__getattribute__(attribute)

    module.__class__ = PendingModule


def _is_initializing(module: ModuleType) -> bool:
    """Whether the import system is still executing the module's body."""
    return bool(getattr(module.__dict__.get("__spec__"), "_initializing", False))
