# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from llamafactory_clinkd.data import sharegpt as writer
from llamafactory_clinkd.data.convert import Options, convert
from llamafactory_clinkd.data.reader import BrokenFileError

from .samples import MED_GRIT_TRAIN, write_source


convert_module = importlib.import_module("llamafactory_clinkd.data.convert")  # the package's own name is the function
CHILD = """
import sys
from llamafactory_clinkd.data import sharegpt as writer
from llamafactory_clinkd.data.convert import convert
writer.CHECKPOINT = 50
convert(sys.argv[1], sys.argv[2], name="grit")
"""


def source_of(path, count):
    """Every ninth row is bad, and ids repeat."""
    rows = []
    for number in range(count):
        row = MED_GRIT_TRAIN | {"id": f"ct_{number % 40}"}
        turns = [["Where?", f"Here {number}." if number % 9 else " "]]
        rows.append(row | {"conversations": turns})
    return write_source(path, rows)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_done(state):
    """Rows of the last checkpoint: none before the first one, nor once a finished conversion has removed it."""
    try:
        return json.loads(state.read_text())["done"]
    except FileNotFoundError:  # checking first would race with the converter, which removes it
        return 0


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_the_files_are_the_same(tmp_path):
    source = source_of(tmp_path / "source.json", 20_000)
    convert(source, tmp_path / "uninterrupted", name="grit")
    command = [sys.executable, "-c", CHILD, str(source), str(tmp_path / "killed")]
    state = tmp_path / "killed" / ".convert" / "grit" / "state.json"
    kills = 0
    for _ in range(60):
        child = subprocess.Popen(command)
        before = rows_done(state)
        while child.poll() is None:
            if rows_done(state) > before + 2000:
                child.send_signal(signal.SIGKILL)
                kills += child.wait() == -signal.SIGKILL
                break
            time.sleep(0.002)
        if child.wait() == 0:
            break
    assert kills >= 3
    assert files(tmp_path / "killed") == files(tmp_path / "uninterrupted")


@pytest.mark.parametrize("stop", [1, 49, 50, 51, 180, 299])
def test_interrupted_and_run_again_the_files_are_the_same(tmp_path, monkeypatch, stop):
    monkeypatch.setattr(writer, "CHECKPOINT", 50)
    source = source_of(tmp_path / "source.json", 300)
    whole = convert(source, tmp_path / "uninterrupted", name="grit")

    real, calls = convert_module.build_rows, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == min(stop, 260):
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(convert_module, "build_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", name="grit")
    assert not (tmp_path / "out" / "grit.json").exists()
    done = convert(source, tmp_path / "out", name="grit")
    assert done.resumed_at == min(stop, 260) - 1
    assert files(tmp_path / "out") == files(tmp_path / "uninterrupted")
    assert (done.rows_in, done.converted, done.rejected) == (whole.rows_in, whole.converted, whole.rejected)
    assert (done.tasks, done.reasons, done.modalities) == (whole.tasks, whole.reasons, whole.modalities)


def test_rows_beyond_the_last_checkpoint_are_cut_off(tmp_path, monkeypatch):
    """As after a kill: the part files hold more than the last checkpoint, and a torn last line."""
    monkeypatch.setattr(writer, "CHECKPOINT", 50)
    source = source_of(tmp_path / "source.json", 300)
    convert(source, tmp_path / "uninterrupted", name="grit")
    monkeypatch.setattr(writer.ResumableWriter, "finish", _killed)
    with pytest.raises(SystemExit):
        convert(source, tmp_path / "out", name="grit")
    monkeypatch.undo()
    for part in ("rows", "rejects"):
        with open(tmp_path / "out" / ".convert" / "grit" / part, "ab") as f:
            f.write(b',\n{"messages": [{"ro')
    assert convert(source, tmp_path / "out", name="grit").resumed_at == 300
    assert files(tmp_path / "out") == files(tmp_path / "uninterrupted")


def _killed(self):
    raise SystemExit(1)


@pytest.mark.parametrize("change", ["source", "options", "lost part"])
def test_a_run_of_other_inputs_is_not_resumed(tmp_path, monkeypatch, change):
    source = source_of(tmp_path / "source.json", 60)
    monkeypatch.setattr(writer.ResumableWriter, "finish", _killed)
    with pytest.raises(SystemExit):
        convert(source, tmp_path / "out", name="grit")
    monkeypatch.undo()
    options = Options(image_folder=tmp_path)
    if change == "source":
        source_of(source, 61)
        os.utime(source, ns=(1, 1))
    elif change == "options":
        options = Options(image_folder=tmp_path, tags="qwen_vl")
    else:
        (tmp_path / "out" / ".convert" / "grit" / "rows").write_bytes(b"")
    done = convert(source, tmp_path / "out", name="grit", options=options)
    assert done.resumed_at == 0
    assert len(json.loads(done.path.read_text())) == done.rows_out


def test_strict_does_not_resume_a_run_that_rejected_a_row(tmp_path, monkeypatch):
    source = source_of(tmp_path / "source.json", 60)
    monkeypatch.setattr(writer.ResumableWriter, "finish", _killed)
    with pytest.raises(SystemExit):
        convert(source, tmp_path / "out", name="grit")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="row 1 .*empty_answer"):
        convert(source, tmp_path / "out", name="grit", strict=True)


def test_killed_between_the_last_steps(tmp_path, monkeypatch):
    source = source_of(tmp_path / "source.json", 60)
    convert(source, tmp_path / "uninterrupted", name="grit")
    monkeypatch.setattr(writer, "write_dataset_info", _killed_there)
    with pytest.raises(SystemExit):
        convert(source, tmp_path / "out", name="grit")
    monkeypatch.undo()
    convert(source, tmp_path / "out", name="grit")
    assert files(tmp_path / "out") == files(tmp_path / "uninterrupted")


def _killed_there(*_):
    raise SystemExit(1)


def test_a_truncated_file_becomes_no_data_set(tmp_path):
    source = source_of(tmp_path / "source.json", 60)
    source.write_text(source.read_text()[:-200])
    with pytest.raises(BrokenFileError, match="row 5[0-9] is not valid JSON"):
        convert(source, tmp_path / "out", name="grit")
    assert not (tmp_path / "out" / "grit.json").exists()
