# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Writes ``docs/reference/cli.md``, the page of all commands, from the Typer application.

``python docs/write_commands.py`` writes the page; ``tests/test_docs.py`` compares it.
"""

from pathlib import Path
from typing import Any

from typer.main import get_command

from llamafactory_clinkd.cli import with_all_commands


PAGE = Path(__file__).parent / "reference" / "cli.md"
HEAD = """# Commands

<!-- Written by docs/write_commands.py: change the help texts of the commands instead. -->

Training is `llamafactory-cli train recipe.yaml`. `clinkd --install-completion` installs the completion of your shell.
`CLINKD_TRACEBACK=1` shows where an error comes from.
"""


def commands_page() -> str:
    """The page as Markdown: a section for each command with its example and options."""
    return "\n".join([HEAD, *_sections(get_command(with_all_commands()), "clinkd")]).rstrip() + "\n"


def _sections(command: Any, name: str) -> list[str]:
    if hasattr(command, "commands"):
        return [line for each in command.commands.values() for line in _sections(each, f"{name} {each.name}")]
    text = " ".join((command.help or "").split())
    lines = [f"## {name}", "", text, "", "```bash", (command.epilog or "").removeprefix("Example: "), "```", ""]
    lines += ["| option | default | |", "|---|---|---|"]
    for parameter in command.params:
        if parameter.name == "help":
            continue
        names = ", ".join(f"`{each}`" for each in _names(parameter)) if parameter.param_type_name == "option" else ""
        default = "" if parameter.default in (None, False, True) else f"`{parameter.default}`"
        lines.append(f"| {names or f'`{parameter.name.upper()}`'} | {default} | {_cell(parameter)} |")
    return [*lines, ""]


def _names(parameter: Any) -> list[str]:
    """The option, and where it has a counterpart with a word of its own, such as ``--stored``, that too."""
    words = [each for each in parameter.secondary_opts if not each.startswith("--no-")]
    return [*parameter.opts, *words]


def _cell(parameter: Any) -> str:
    text = (parameter.help or "").replace("|", "\\|").replace("<", "&lt;")
    return text + (" Required." if parameter.required else "")


if __name__ == "__main__":
    PAGE.write_text(commands_page(), encoding="utf-8")
