# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One line of an examination."""

from typing import Any, TypedDict


class Finding(TypedDict):
    """``state`` is ``ok``, ``missing`` (something optional) or ``broken``; ``mend`` is empty where all is well."""

    name: str
    state: str
    found: str
    mend: str


COLOURS = {"ok": "green", "missing": "yellow", "broken": "red"}


def finding(name: str, state: str, found: str, mend: str = "") -> Finding:
    """One line of the examination."""
    return {"name": name, "state": state, "found": found, "mend": mend}


def findings_table(findings: list[Finding]) -> Any:
    """The findings as a rich table."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "state", "found", "how to mend")
    for each in findings:
        colour = COLOURS[each["state"]]
        table.add_row(each["name"], f"[{colour}]{each['state']}[/]", escape(each["found"]), escape(each["mend"]))
    return table
