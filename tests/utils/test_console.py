# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Progress on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from llamafactory_clinkd.utils import console as console_module
from llamafactory_clinkd.utils.console import bars_of_parts


@pytest.fixture(autouse=True)
def every_line(monkeypatch):
    monkeypatch.setattr(console_module, "SECONDS_BETWEEN_LINES", 0)


def said(**options) -> str:
    file = io.StringIO()
    with bars_of_parts(Console(file=file, width=100, **options)) as show:
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


def test_a_part_of_unknown_length_is_drawn_on_a_terminal_only():
    log, terminal = io.StringIO(), io.StringIO()
    for file in (log, terminal):
        with bars_of_parts(Console(file=file, width=100, force_terminal=file is terminal)) as show:
            show("rows", 2000, None)
    assert not log.getvalue() and "2000/?" in terminal.getvalue()


def test_a_terminal_gets_a_bar_for_each_part():
    text = said(force_terminal=True)
    assert "40/40" in text and "3/3" in text and "in 0:00:00" in text and "\x1b[" in text


def test_a_log_gets_no_line_of_a_short_part_and_the_end_of_a_long_one(monkeypatch):
    monkeypatch.setattr(console_module, "SECONDS_BETWEEN_LINES", 10)
    now = iter([0, 1, 2, 0, 5, 11, 12, 13])
    monkeypatch.setattr(console_module.time, "monotonic", lambda: next(now))
    file = io.StringIO()
    with bars_of_parts(Console(file=file)) as show:
        for done in (0, 5, 10):
            show("short", done, 10)
        for done in (0, 2, 5, 6, 10):
            show("long", done, 10)
    assert file.getvalue().splitlines() == ["long 5/10", "long 10/10"]


def test_bars_inside_bars_and_none_without_a_console():
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True)
    with bars_of_parts(console) as outer, bars_of_parts(console) as inner, bars_of_parts(None) as nothing:
        outer("training", 1, 4)
        inner("answers", 3, 3)
        nothing("nothing", 1, 1)
        outer("training", 4, 4)
    text = file.getvalue()
    assert "4/4" in text and "3/3" in text and "nothing" not in text and not console_module._drawn
