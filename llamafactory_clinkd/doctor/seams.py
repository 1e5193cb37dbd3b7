# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The seams: whether each hook went through, and whether every name it relies on is there."""

import importlib

from .finding import Finding, finding


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
