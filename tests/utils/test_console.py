# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Progress on a terminal and in a log."""

import io

from rich.console import Console

from llamafactory_clinkd.utils.console import bars_of_parts


def said(**options) -> str:
    file = io.StringIO()
    with bars_of_parts(Console(file=file, width=60, **options)) as show:
        for step in range(41):
            show("pretraining: base", step, 40, f"loss {4 - step / 20:.2f} [dim]")
        show("runs", 3, 3)
    return file.getvalue()


def test_a_log_gets_a_line_at_each_tenth():
    lines = said().splitlines()
    assert lines[:2] == ["pretraining: base 0/40 loss 4.00 [dim]", "pretraining: base 4/40 loss 3.80 [dim]"]
    assert lines[10:] == ["pretraining: base 40/40 loss 2.00 [dim]", "runs 3/3"]


def test_a_part_of_nothing_is_done():
    file = io.StringIO()
    with bars_of_parts(Console(file=file)) as show:
        show("runs", 0, 0)
    assert file.getvalue() == "runs 0/0\n"


def test_a_terminal_gets_a_bar_for_each_part():
    text = said(force_terminal=True)
    assert "40/40" in text and "3/3" in text and "\x1b[" in text
