# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Whether a line such as ``clinkd data check FILE`` has a command and options that exist; nothing is run."""

import functools
import inspect
import re
import shlex
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typer.main import get_command

from llamafactory_clinkd.cli import with_all_commands


LLAMAFACTORY = ("train", "chat", "api", "export", "webui", "webchat", "eval", "env", "version")


@functools.cache
def all_commands() -> dict[str, Any]:
    """Name, such as ``data convert`` -> the command."""
    found = {}

    def walk(group: Any, words: tuple[str, ...]) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                walk(command, (*words, name))
            else:
                found[" ".join((*words, name))] = command

    walk(get_command(with_all_commands()), ())
    return found


def is_literal(hint: Any) -> bool:
    """Whether it is a ``Literal[...]``."""
    return get_origin(hint) is Literal


def problem_of(line: str, *, named: bool = False) -> str | None:
    """What is wrong with a ``clinkd`` or ``llamafactory-cli`` line of the docs; None if it parses.

    Brackets of optional parts and ``...`` are dropped; a word in capitals stands for any value. With ``named``, a
    command that is only named, without its arguments, is right.
    """
    words = shlex.split(re.sub(r"\.\.\.|[\[\]]", " ", line), comments=True)
    while words and (re.fullmatch(r"[A-Z_]+=\S*", words[0])):
        words.pop(0)
    for end in ("|", ">", "&&", "&", ";"):
        words = words[: words.index(end)] if end in words else words
    program, *rest = words
    if program == "llamafactory-cli":
        return None if rest and rest[0] in LLAMAFACTORY else f"llamafactory-cli has no {' '.join(rest[:1])}"
    if not rest or rest[0].startswith("--"):
        known = {"--version", "--help", "--install-completion", "--show-completion"}
        return None if set(rest) <= known else f"clinkd has no {rest}"
    commands = all_commands()
    name = next((name for name in (" ".join(rest[:2]), rest[0]) if name in commands), None)
    if name is None:
        return None if rest == ["data"] else f"clinkd has no {' '.join(rest[:2])}"
    command, arguments = commands[name], rest[len(name.split()) :]
    if arguments == ["--help"]:
        return None
    context = command.context_class(command, info_name=name)
    try:
        options, values, _ = command.make_parser(context).parse_args(list(arguments))
    except Exception as error:  # of typer's own copy of click
        if named and "requires an argument" in str(error):
            return None
        return f"{line}: {error}"
    if values:
        return f"{line}: {values} is too much"
    hints = get_type_hints(inspect.unwrap(command.callback))
    literals = {name: [hint, *get_args(hint)] for name, hint in hints.items()}  # a Literal, or one beside None
    choices_of = {name: get_args(part) for name, parts in literals.items() for part in parts if is_literal(part)}
    for parameter in command.params:
        value = options.get(parameter.name)
        if parameter.required and value is None and not named:
            return f"{line}: {parameter.name} is missing"
        choices = choices_of.get(parameter.name, ())
        if choices and isinstance(value, str) and value not in choices and not value.isupper():
            return f"{line}: {value} is none of {choices}"
    return None
