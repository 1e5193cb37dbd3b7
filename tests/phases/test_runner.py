# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The end of a run that did not finish: a stop has its reason, and what is no stop is an error."""

import gc
from pathlib import Path
from types import SimpleNamespace

import pytest

from llamafactory_clinkd.generation.shards import UnfinishedError
from llamafactory_clinkd.phases import runner
from llamafactory_clinkd.phases.recipe import RecipeArguments
from llamafactory_clinkd.phases.state import ProcedureState
from llamafactory_clinkd.phases.stopping import propagate_failure
from llamafactory_clinkd.utils.console import counted
from llamafactory_clinkd.utils.io import read_json, write_json
from llamafactory_clinkd.utils.ranks import Ranks, Stopped


@pytest.fixture
def arguments(tmp_path):
    training = SimpleNamespace(
        output_dir=str(tmp_path), ddp_timeout=60, seed=1, per_device_train_batch_size=1, gradient_accumulation_steps=1
    )
    finetuning = SimpleNamespace(clinkd_phases=["pseudo_label"], finetuning_type="lora")
    return RecipeArguments(None, None, training, finetuning, None)


def end_with(monkeypatch, arguments, error, reason=""):
    """Runs the procedure, whose phase raises ``error``, if any, after a request to stop for ``reason``."""
    ranks = Ranks()

    def run_phases(run):
        if reason:
            ranks.request_stop(reason)

        def run_phase(run):
            if error is not None:
                raise error
            return []

        monkeypatch.setattr(runner, "import_module", lambda *args: SimpleNamespace(run_phase=run_phase))
        runner._run_phase(run, ProcedureState(run.folder, writes=True), "pseudo_label", {}, "ClinKD phase 1/1")

    monkeypatch.setattr(runner.Ranks, "of_process_group", lambda timeout: ranks)
    monkeypatch.setattr(runner, "check_recipe", lambda arguments: None)
    monkeypatch.setattr(runner, "with_saved_positions", lambda model, finetuning: finetuning)
    monkeypatch.setattr(runner, "_run_phases", run_phases)
    runner.run_procedure(None, arguments, [])


@pytest.mark.parametrize("error", [UnfinishedError, Stopped])
def test_requested_stop_ends_with_its_reason(monkeypatch, arguments, error, caplog):
    with caplog.at_level("INFO", logger="llamafactory_clinkd"), pytest.raises(SystemExit) as ended:
        end_with(monkeypatch, arguments, error("3 of 8 rows."), "SIGTERM")
    assert ended.value.code == 143
    assert "Stopped by SIGTERM at phase pseudo_label, start: 3 of 8 rows. The same command" in caplog.text


@pytest.mark.parametrize(("number", "text"), [(1.0, "1 epoch"), (2.0, "2 epochs"), (0.5, "0.5 epochs")])
def test_one_epoch_is_singular(number, text):
    assert counted(number, "epoch") == text


def test_unfinished_generation_that_nobody_stopped_is_an_error(monkeypatch, arguments, caplog):
    """As on two nodes, each of which saw its own answers only."""
    with caplog.at_level("INFO", logger="llamafactory_clinkd"), pytest.raises(UnfinishedError, match="answers.jsonl"):
        end_with(monkeypatch, arguments, UnfinishedError("answers.jsonl is not complete"))
    assert "Stopped by" not in caplog.text


def test_stop_without_a_reason_is_an_error(monkeypatch, arguments, caplog):
    with caplog.at_level("INFO", logger="llamafactory_clinkd"), pytest.raises(RuntimeError) as ended:
        end_with(monkeypatch, arguments, Stopped("somewhere"))
    assert "ended at phase pseudo_label" in str(ended.value) and "no stop was requested: somewhere" in str(ended.value)
    assert "Stopped by" not in caplog.text and "continues the run" not in caplog.text


@pytest.mark.parametrize("frozen_before", [False, True])
def test_objects_are_frozen_during_a_run_and_stay_so_if_the_caller_froze_them(monkeypatch, arguments, frozen_before):
    seen = []
    monkeypatch.setattr(runner, "check_recipe", lambda arguments: seen.append(gc.get_freeze_count()))
    monkeypatch.setattr(runner, "with_saved_positions", lambda model, finetuning: finetuning)
    monkeypatch.setattr(runner, "_run_phases", lambda run: None)
    monkeypatch.setattr(runner.Ranks, "of_process_group", lambda timeout: Ranks())
    gc.unfreeze()
    try:
        if frozen_before:
            gc.freeze()
        before = gc.get_freeze_count()
        runner.run_procedure(None, arguments, [])
        assert seen[0] > 0 and (seen[0] == before) == frozen_before
        assert gc.get_freeze_count() == before
    finally:
        gc.freeze()  # as tests/conftest.py does


@pytest.mark.parametrize(
    ("size", "phase", "notes"),
    [
        (1, "", []),
        (1, "distill", ["At phase distill, start."]),
        (2, "", ["On rank 0 of 2, at the removal of old files."]),
    ],
)
def test_error_has_the_place_where_it_helps(tmp_path, size, phase, notes):
    ranks = Ranks()
    ranks.phase, ranks.size = phase, size
    ranks._store = SimpleNamespace(set=lambda *pair: None, compare_set=lambda *values: None)
    with pytest.raises(ValueError, match="no such scorer") as raised, propagate_failure(ranks, tmp_path):
        ranks.set_location("start" if phase else "the removal of old files")
        raise ValueError("no such scorer")
    assert getattr(raised.value, "__notes__", []) == notes


def test_failed_check_before_the_first_phase_has_no_place(monkeypatch, arguments):
    """Of one process the line would be about a point that it passed long ago."""
    ranks = Ranks()

    def run_phases(run):
        ranks.wait("the removal of old files")
        raise ValueError("the recipe changed")

    monkeypatch.setattr(runner.Ranks, "of_process_group", lambda timeout: ranks)
    monkeypatch.setattr(runner, "check_recipe", lambda arguments: None)
    monkeypatch.setattr(runner, "with_saved_positions", lambda model, finetuning: finetuning)
    monkeypatch.setattr(runner, "_run_phases", run_phases)
    with pytest.raises(ValueError, match="the recipe changed") as raised:
        runner.run_procedure(None, arguments, [])
    assert not hasattr(raised.value, "__notes__")


def test_time_of_a_phase_is_that_of_all_attempts(monkeypatch, arguments, caplog):
    clock = iter([0.0, 7.0, 100.0, 102.5, 200.0, 204.0])  # start and end of each attempt
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    folder = Path(arguments.training.output_dir) / "clinkd"

    def record():
        return ProcedureState(folder, writes=True).phases["pseudo_label"]

    with pytest.raises(SystemExit):
        end_with(monkeypatch, arguments, Stopped("3 of 8 rows"), "SIGTERM")
    content = read_json(folder / "state.json")
    content["phases"]["pseudo_label"]["started"] = "2026-01-01T00:00:00+00:00"
    write_json(folder / "state.json", content)
    with pytest.raises(OSError, match="no picture"):
        end_with(monkeypatch, arguments, OSError("no picture"))
    assert record()["status"] == "started" and record()["seconds"] == 9.5

    with caplog.at_level("INFO", logger="llamafactory_clinkd"):
        end_with(monkeypatch, arguments, None)
    assert record()["status"] == "finished" and record()["seconds"] == 13.5
    assert record()["started"] == "2026-01-01T00:00:00+00:00" and record()["attempts"] == 3
    assert "finished in 4 s (14 s in 3 attempts), saved" in caplog.text and "unknown" not in caplog.text
