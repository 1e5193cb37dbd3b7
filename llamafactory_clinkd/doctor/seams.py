# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The seams: whether each hook went through, and whether every name it relies on is there."""

import importlib

from .checks import Finding, finding


MEND = "This LLaMA-Factory moved the seam: install a supported version (see `versions`)."


def attached_seams() -> list[Finding]:
    """Imports every module that has a hook and says whether it went through."""
    from ..attach import attach, status
    from ..attach.hooks import HOOKS

    attach()
    problems = {}
    for module in HOOKS:
        try:
            importlib.import_module(module)
        except ImportError as error:
            problems[module] = f"cannot be imported: {error}"
    states = {**status()["seams"], **problems}
    return [
        finding(f"seam {module}", "ok", state)
        if state == "patched"
        else finding(f"seam {module}", "broken", state, MEND)
        for module, state in states.items()
    ]


def seam_names() -> list[Finding]:
    """One line if every name is there, else one line for each that is not."""
    from ..attach.seams import SEAMS, missing_seams

    missing = missing_seams()
    if not missing:
        count = sum(len(names) for names in SEAMS.values())
        return [finding("seam names", "ok", f"{count} names in {len(SEAMS)} modules are where they are expected")]
    return [finding("seam name", "broken", problem, MEND) for problem in missing]
