# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from clinkd_commands import all_commands, problem_of
from typer.testing import CliRunner

import llamafactory_clinkd
from llamafactory_clinkd.cli import PROBLEMS_SHOWN, app, with_all_commands


COMMANDS = all_commands()


def test_help_of_the_demo_names_the_folder_of_its_models():
    shown = " ".join(CliRunner().invoke(app, ["demo", "--help"]).output.replace("│", " ").split())
    assert "llamafactory_clinkd/demo" in shown and "models/base" in shown and "models/teacher" in shown
    assert all((Path(llamafactory_clinkd.__file__).parent / "demo" / name).is_dir() for name in
               ("models/base", "models/teacher", "data"))  # fmt: skip


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


def clinkd(*words):
    return CliRunner().invoke(with_all_commands(), list(words))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses_and_help_in_80_columns(name):
    done = clinkd(*name.split(), "--help")
    assert done.exit_code == 0 and "\x1b[" not in done.output
    assert max(map(len, done.output.splitlines())) <= 80
    example = re.search(r"Example: (clinkd .+)", COMMANDS[name].epilog or "")
    assert example and shlex.split(example[1])[1 : 1 + len(name.split())] == name.split()
    assert problem_of(example[1]) is None


def test_help_imports_nothing_that_takes_long():
    """Not a bound on seconds, which depend on the machine: these modules are most of a slow start."""
    code = (
        "import sys; from llamafactory_clinkd.cli import with_all_commands\n"
        "try: with_all_commands()(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'llamafactory', 'datasets', 'pandas', 'pyarrow', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("attention", "WRONG", "--image", __file__, "--question", "x"), "WRONG"),
        (("attention", "a=.", "--image", __file__, "--question", "x"), "config.json"),
        (("doctor", "--recipe", __file__), "not a recipe"),
        (("doctor", "--plan", __file__), "not a recipe"),
        (("reproduce", "table2", "--scale", "mini", "--rows", "x", "--dry-run"), "Unknown rows x"),
        (("reproduce", "table2", "--scale", "paper", "--seeds", "one"), "--seeds one"),
        (("evaluate", "no/such/file.jsonl"), "no/such/file.jsonl"),
        (("report", "no/such/run"), "no/such/run"),
        (("select", "no.jsonl", "--scorer", "consensus", "--output", "x"), "no.jsonl"),
        (("data", "convert", "no.json", "x"), "no.json"),
    ],
)
def test_wrong_input_ends_in_one_readable_line(words, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = clinkd(*words)
    assert done.exit_code == 2 and found in done.output, done.output
    assert "Traceback" not in done.output and len(done.output.strip().splitlines()) == 1


def test_a_dry_run_of_the_data_builds_nothing(tmp_path):
    for scale, found in (("mini", "Would write demo_train"), ("paper", "Would write med_grit")):
        done = clinkd("reproduce", "data", "--scale", scale, "--dry-run", "--directory", str(tmp_path / "runs"))
        assert done.exit_code == 0 and found in " ".join(done.output.split()), done.output
    assert not list(tmp_path.iterdir())


def test_a_broken_installation_ends_the_demo_in_one_line(monkeypatch, tmp_path):
    from llamafactory_clinkd.demo import run_demo

    monkeypatch.setattr(run_demo, "HERE", tmp_path)
    done = clinkd("demo", "--directory", str(tmp_path / "run"))
    assert done.exit_code == 2 and len(done.output.strip().splitlines()) == 1, done.output


def test_the_traceback_is_there_on_request(monkeypatch):
    monkeypatch.setenv("CLINKD_TRACEBACK", "1")
    done = clinkd("evaluate", "no/such/file.jsonl")
    assert isinstance(done.exception, OSError)


def test_version_is_in_one_place():
    for command in (["-m", "llamafactory_clinkd", "--version"], ["-c", "from llamafactory_clinkd.cli import main; main()", "--version"]):  # fmt: skip  # noqa: E501
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert done.stdout == f"clinkd {llamafactory_clinkd.__version__}\n"
    root = Path(__file__).resolve().parents[1]
    releases = re.findall(r"^## \[(\d.*?)\]", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert releases[0] == llamafactory_clinkd.__version__
    assert "version = attr: llamafactory_clinkd.__version__" in (root / "setup.cfg").read_text()


def test_a_shell_completes_commands():
    environment = {**os.environ, "_CLINKD_COMPLETE": "complete_bash", "COMP_WORDS": "clinkd re", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['clinkd']; from llamafactory_clinkd.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["report", "reproduce"], done.stderr[-500:]
