# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Attaching to stock LLaMA-Factory: the only place that names one of its seams.

torch calls :func:`autoload` at the end of ``import torch`` (entry point group ``torch.backends``). It registers
post-import hooks and never raises. :func:`attach`, :func:`detach` and :func:`status` are for users.
"""

import sys
from types import ModuleType
from typing import Any

from .hooks import HOOKS, HOOKS_ON_ANY_VERSION
from .registry import REGISTRY, when_imported
from .versions import found_versions, require_supported_versions


def autoload() -> None:
    """Entry point: attaches, and keeps an error instead of raising it (torch would turn it into a broken import)."""
    try:
        attach()
    except Exception as error:
        REGISTRY.error = error


def attach() -> None:
    """Registers a hook for every seam; seams already imported are patched at once. Attaching twice is a no-op."""
    if REGISTRY.attached:
        return

    REGISTRY.attached = True
    for name in HOOKS:
        if name not in REGISTRY.watched:
            REGISTRY.watched.add(name)
            when_imported(name, lambda module, name=name: REGISTRY.run(name, _patch, module))
        elif name in sys.modules:  # the hook fired in an earlier attachment and was undone
            REGISTRY.run(name, _patch, sys.modules[name])


def _patch(module: ModuleType) -> None:
    hook = HOOKS[module.__name__]
    if hook not in HOOKS_ON_ANY_VERSION:
        require_supported_versions()
    hook(module)


def detach() -> None:
    """Restores every replaced object; hooks that have not fired yet do nothing from now on."""
    REGISTRY.undo()
    REGISTRY.attached = False


def status() -> dict[str, Any]:
    """``{"attached": bool, "error": str | None, "versions": {}, "seams": {name: "waiting" | "patched" | error}}``."""
    seams = {name: REGISTRY.seams.get(name, "waiting") for name in HOOKS}
    error = None if REGISTRY.error is None else f"{type(REGISTRY.error).__name__}: {REGISTRY.error}"
    return {"attached": REGISTRY.attached, "error": error, "versions": found_versions(), "seams": seams}
