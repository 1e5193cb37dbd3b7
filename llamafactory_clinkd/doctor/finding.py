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
