# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Attaching to stock LLaMA-Factory: the only place that names one of its seams.

torch calls :func:`autoload` at the end of ``import torch`` (entry point group ``torch.backends``). It registers
post-import hooks and nothing else, so that it costs a few milliseconds and cannot break ``import torch``: an error is
kept and raised when a recipe asks for ClinKD. :func:`attach`, :func:`detach` and :func:`status` are for people.
"""

import sys
from typing import Any

from .hooks import HOOKS
from .registry import REGISTRY


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
    from .import_hooks import when_imported

    for module_name, hook in HOOKS.items():
        module = sys.modules.get(module_name)
        if module_name in REGISTRY.watched:
            if module is not None:  # the hook fired in an earlier attachment and was undone
                REGISTRY.run(module_name, hook, module)
            continue
        REGISTRY.watched.add(module_name)
        when_imported(module_name, lambda module, name=module_name, hook=hook: REGISTRY.run(name, hook, module))


def detach() -> None:
    """Puts every replaced object back; hooks that have not fired yet do nothing from now on."""
    REGISTRY.undo()
    REGISTRY.attached = False


def status() -> dict[str, Any]:
    """What is attached.

    Returns:
        ``{"attached": bool, "error": str | None, "versions": {...}, "seams": {module: "waiting" | "patched" |
        error}}``.
    """
    from .versions import found_versions

    seams = {name: REGISTRY.seams.get(name, "waiting") for name in HOOKS}
    error = None if REGISTRY.error is None else f"{type(REGISTRY.error).__name__}: {REGISTRY.error}"
    return {"attached": REGISTRY.attached, "error": error, "versions": found_versions(), "seams": seams}
