# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from llamafactory_clinkd.cli import PROBLEMS_SHOWN, app


@pytest.mark.parametrize(
    "command", [["evaluate"], ["select"], ["report"], ["doctor"], ["attention"], ["data", "check"]]
)
def test_commands_start_without_torch(command):
    """It takes seconds and half a gigabyte, which evaluation and data commands have no use for."""
    code = (
        "import sys; from llamafactory_clinkd.cli import main\n"
        f"sys.argv = ['clinkd', *{command!r}, '--help']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Usage" in done.stdout


def test_evaluate_names_malformed_rows_and_where_the_rest_is(tmp_path):
    box = "<box>(1,2),(30,40)</box>"
    good = {"image": "ct_1.png", "question": "Where is it?", "annotation": box, "response": box}
    rows = [
        good,
        {**good, "response": None},
        *[{**good, "annotation": f"[red]{n}"} for n in range(PROBLEMS_SHOWN + 4)],
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({**row, "task": "VG"}) + "\n" for row in rows))
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "p.jsonl"), "--json", str(tmp_path / "m.json")])
    assert done.exit_code == 0, done.output
    assert "row 2, counted wrong: the response is not text: None" in done.output
    assert "row 3, left out: a grounding task whose ground truth has no box" in done.output
    assert f"row {PROBLEMS_SHOWN + 1}, left out" in done.output and f"row {PROBLEMS_SHOWN + 2}," not in done.output
    assert "and 5 more rows: --json FILE lists them all." in done.output
    assert len(json.loads((tmp_path / "m.json").read_text())["problems"]) == PROBLEMS_SHOWN + 5
