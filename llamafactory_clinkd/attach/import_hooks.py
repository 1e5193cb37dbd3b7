# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Calling back when a module has finished importing, also when it is half-initialised right now.

torch may be imported, and with it this plugin, from *inside* a LLaMA-Factory module: with
``from llamafactory.train.sft import run_sft`` as a program's first line, ``train.sft.workflow`` is in ``sys.modules``
but its functions do not exist yet. ``wrapt`` would call the hook at once. Such a module gets a class whose attribute
access waits for the end of the import: the importer's own ``from .workflow import run_sft`` is the first access after
it.
"""

import sys
from collections.abc import Callable
from types import ModuleType

import wrapt


def is_initializing(module: ModuleType) -> bool:
    """Whether the import system is still executing the module's body."""
    spec = module.__dict__.get("__spec__")
    return bool(getattr(spec, "_initializing", False))


def when_imported(name: str, callback: Callable[[ModuleType], None]) -> None:
    """Calls ``callback(module)`` once: now if the module is complete, else as soon as it is."""
    module = sys.modules.get(name)
    if module is not None and is_initializing(module):
        _wait_for(module, callback)
    else:
        wrapt.register_post_import_hook(callback, name)


def _wait_for(module: ModuleType, callback: Callable[[ModuleType], None]) -> None:
    original_class = module.__class__

    class PendingModule(original_class):
        def __getattribute__(self, attribute: str):
            if not attribute.startswith("__") and not is_initializing(self):
                object.__setattr__(self, "__class__", original_class)
                callback(self)
                return getattr(self, attribute)
            return super().__getattribute__(attribute)

    module.__class__ = PendingModule
