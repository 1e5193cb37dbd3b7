# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Writes ``docs/reference/api.md``, the public names of the packages; mkdocstrings fills in their docstrings.

``python docs/write_functions.py`` writes the page; ``tests/test_docs.py`` compares it.
"""

from importlib import import_module
from pathlib import Path


PAGE = Path(__file__).parent / "reference" / "api.md"
PACKAGES = {
    "kd": "Distillation", "rope": "Rotary positions", "correct": "Reflective Correction",
    "select": "Selective generation", "generation": "Generation", "evaluate": "Evaluation", "data": "Data sets",
    "report": "Report", "attention": "Attention maps", "attach": "Attaching",
}  # fmt: skip
HEAD = """# Functions and classes

<!-- Written by docs/write_functions.py from the `__all__` of each package. -->

Names that can be imported from these packages, for example `from llamafactory_clinkd.kd import distill_loss`. Other
modules may move in any release.
"""


def functions_page() -> str:
    """The page as Markdown: an instruction for mkdocstrings for each name."""
    parts = [HEAD]
    for package, title in PACKAGES.items():
        module = import_module(f"llamafactory_clinkd.{package}")
        parts.append(f"## {title}: `{module.__name__}`\n")
        values = {name: getattr(module, name) for name in getattr(module, "__all__", ("attach", "detach", "status"))}
        documented = [name for name, value in values.items() if hasattr(value, "__qualname__")]
        parts += [f"::: {values[name].__module__}.{values[name].__qualname__}\n" for name in documented]
        if others := [f"`{name}`" for name in values if name not in documented]:
            parts.append(f"Also: {', '.join(others)}.\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(functions_page(), encoding="utf-8")
