# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a run prints on the terminal, and what goes to its log."""

import io
import logging
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from small_run import build_workspace, llamafactory_cli, recipe, start_recipe, write_recipe

from llamafactory_clinkd.phases.run_log import TrainingBar, terminal_of_run
from llamafactory_clinkd.utils.console import bars_of_parts, console


ALL = {"clinkd_phases": "pseudo_label,distill,correct,predict,evaluate", "sasg_candidates": 2, "disable_tqdm": None}
PATIENT = "Where is the square"  # of a question


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return build_workspace(tmp_path_factory.mktemp("workspace"), own_vocabulary=True)


def training(folder, rank=0):
    return SimpleNamespace(output_dir=str(folder), process_index=rank)


@pytest.fixture
def captured(monkeypatch):
    """Puts standard output and error into memory: pytest replaces both between a fixture and its test."""
    monkeypatch.delenv("LLAMAFACTORY_VERBOSITY", raising=False)
    library, ours = logging.getLogger("a_library"), logging.getLogger("llamafactory_clinkd.a")
    monkeypatch.setattr(library, "propagate", False)
    monkeypatch.setattr(ours, "parent", library)
    for logger in (library, ours):
        monkeypatch.setattr(logger, "level", logging.INFO)

    def capture():
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        monkeypatch.setattr(library, "handlers", [logging.StreamHandler(out)])
        return SimpleNamespace(out=out, err=err, library=library, ours=ours)

    return capture


def test_lines_go_where_they_belong(captured, tmp_path):
    streams = captured()
    with terminal_of_run(training(tmp_path)):
        streams.library.info("loading a file")
        print("an example")
        for _ in range(2):
            streams.library.warning("an old key [dim]")
        streams.ours.info("phase 1")
        print("\rRunning:  50%|##  | 1/2", end="", file=sys.stderr)
        print(file=sys.stderr)
        print("Traceback of a thread", file=sys.stderr)
        logging.getLogger("other").error("it failed")
        on_disk = (tmp_path / "clinkd.log").read_text()
    assert streams.out.getvalue().splitlines() == [
        f"ClinKD's log of this run: {tmp_path / 'clinkd.log'}",
        "Warning (a_library): an old key [dim]",
        "phase 1",
        "Error (other): it failed",
    ]
    assert streams.err.getvalue() == "Traceback of a thread\n"
    for text in ("loading a file", "an example", "an old key", "phase 1", "Traceback of a thread"):
        assert text in on_disk
    assert "50%" not in on_disk
    print("afterwards")
    streams.library.info("and this")
    console.print("of a command")
    assert streams.out.getvalue().splitlines()[-3:] == ["afterwards", "and this", "of a command"]
    assert not any("_TerminalHandler" in str(each) for each in (*logging.root.handlers, *streams.library.handlers))


def test_standard_error_stands_above_the_bars_of_a_terminal(captured, tmp_path):
    streams = captured()
    streams.out.isatty = streams.err.isatty = lambda: True
    with terminal_of_run(training(tmp_path)), bars_of_parts(console) as show:
        show("answers", 1, 4)
        sys.stderr.write("a warning")
        sys.stderr.write(" of a library\nno end")
        show("answers", 4, 4)
    text = streams.out.getvalue()
    assert "a warning of a library\n" in text and text.index("a warning") < text.rindex("4/4")
    assert streams.err.getvalue() == "no end"


def test_other_ranks_have_their_log_and_print_warnings_only(captured, tmp_path):
    streams = captured()
    with terminal_of_run(training(tmp_path, rank=1)):
        streams.ours.info("phase 1")
        streams.ours.warning("no beams")
    assert streams.out.getvalue() == "Warning: no beams\n"
    assert "phase 1" in (tmp_path / "clinkd.rank1.log").read_text()


def test_debug_prints_everything(captured, tmp_path, monkeypatch):
    streams = captured()
    monkeypatch.setenv("LLAMAFACTORY_VERBOSITY", "debug")
    with terminal_of_run(training(tmp_path)):
        streams.library.info("loading a file")
        print("an example")
    assert streams.out.getvalue() == "loading a file\nan example\n" and not list(tmp_path.iterdir())


def test_the_bar_of_a_training_has_steps_rows_and_loss():
    shown = []
    bar, state = TrainingBar(lambda *values: shown.append(values), "distill"), SimpleNamespace(max_steps=4)
    state.global_step = 1
    bar.on_train_begin(None, state, None, train_dataloader=SimpleNamespace(dataset=range(1320)))
    bar.on_log(None, state, None, logs={"loss": "0.51234", "kl": 1.0})
    bar.on_log(None, state, None, logs={"train_runtime": 1.0})
    state.global_step = 2
    bar.on_step_end(None, state, None)
    title = "distill, steps on 1,320 rows"
    assert shown == [(title, 1, 4), (title, 2, 4, "loss 0.512")]


@pytest.mark.slow
def test_a_whole_run_prints_less_than_sixty_lines(workspace, tmp_path):
    keys = recipe(workspace, tmp_path / "out", **ALL)
    done = llamafactory_cli("train", str(write_recipe(tmp_path / "recipe.yaml", keys)), fresh=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    tables = [line for line in lines if line[0] in "┏┃┡│├└"]
    assert len(lines) - len(tables) < 60 and len(tables) < 40, done.stdout
    assert not {"\r", "\x1b"} & set(done.stdout + done.stderr)
    assert "%|" not in done.stdout + done.stderr  # bars of libraries
    for number, phase in enumerate(ALL["clinkd_phases"].split(","), start=1):
        assert f"ClinKD phase {number}/5: {phase} starts: " in done.stdout
        assert f"ClinKD phase {number}/5: {phase} finished" in done.stdout
    assert "Warning (llamafactory.hparams" in done.stdout or "We recommend enable mixed precision" in done.stdout
    assert "Warning (llamafactory.train.sft.workflow): Batch generation can be very slow" in done.stdout
    assert f"clinkd report {tmp_path / 'out'}" in lines[-1] + lines[-2] or "Report: " in done.stdout
    log = (tmp_path / "out" / "clinkd.log").read_text(encoding="utf-8")
    for text in ("Model config Qwen2VLConfig", "***** Running training *****", "train_loss", "training example:"):
        assert text in log and text not in done.stdout
    assert "ClinKD phase 2/5: distill starts" in log and PATIENT not in log


@pytest.mark.slow
def test_stock_training_prints_what_it_did(workspace, tmp_path):
    keys = recipe(workspace, tmp_path / "out", use_clinkd=None, clinkd_phases=None, pseudo_label_samples=None)
    ours = ("kd_epochs", "correction_similarity", "sasg_scorer", "ref_model")
    keys = {key: value for key, value in keys.items() if key not in ours}
    done = llamafactory_cli("train", str(write_recipe(tmp_path / "recipe.yaml", keys)), fresh=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Model config Qwen2VLConfig" in done.stderr and "train_loss" in done.stdout
    assert not (tmp_path / "out" / "clinkd.log").exists()


@pytest.mark.slow
def test_the_log_of_a_killed_run_has_its_lines(workspace, tmp_path):
    keys = recipe(workspace, tmp_path / "out", kd_epochs=400)
    log = tmp_path / "out" / "clinkd.log"
    process = start_recipe(
        write_recipe(tmp_path / "r.yaml", keys), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not log.exists() or "'loss'" not in log.read_text(encoding="utf-8"):
            assert process.poll() is None, "the run ended before its first step"
            time.sleep(0.2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    text = log.read_text(encoding="utf-8")
    assert "ClinKD phase 1/1: distill starts" in text and text.endswith("\n")


@pytest.mark.long
def test_two_ranks_print_once(workspace, tmp_path):
    keys = recipe(workspace, tmp_path / "out", per_device_train_batch_size=1)
    process = start_recipe(
        write_recipe(tmp_path / "r.yaml", keys), 2, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out[-3000:]
    assert out.count("distill starts") == out.count("ClinKD's log of this run") == 1 and out.count("\n") < 60, out
    assert (tmp_path / "out" / "clinkd.rank1.log").is_file()
