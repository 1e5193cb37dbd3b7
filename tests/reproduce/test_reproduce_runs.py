# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which runs are missing, what becomes of one that fails, what is never run twice; with a runner that trains not."""

import json
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner

from llamafactory_clinkd.reproduce import command
from llamafactory_clinkd.reproduce.command import choose_rows, choose_seeds
from llamafactory_clinkd.reproduce.launch import RunFailed, has_model, last_lines, launch, take_folder
from llamafactory_clinkd.reproduce.results import find_result, results_folder, score, score_interval
from llamafactory_clinkd.reproduce.row_recipes import plan_run, run_folder, write_recipe
from llamafactory_clinkd.reproduce.run import missing_runs, plan_runs, run_missing
from llamafactory_clinkd.reproduce.table_rows import ROWS, rows_of

from . import handmade


SOME = [ROWS[name] for name in ("sft", "mcg", "sasg", "teacher")]


class Trainer:
    """In the place of ``launch``: leaves what a run leaves, fails where it is told to, counts."""

    def __init__(self, failing=()):
        self.ran, self.failing = [], set(failing)

    def __call__(self, plan, directory, tell):
        self.ran.append(plan.name)
        tell("distill")
        write_recipe(plan, directory)
        if plan.name in self.failing:
            raise RunFailed("ended with 1; the end of log.txt:\nValueError: told to")
        state = {"phases": {name: {"status": "finished", "seconds": 1.5} for name in ("distill", "correct")}}
        folder = run_folder(plan, directory) / "clinkd"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state.json").write_text(json.dumps(state))
        return handmade.metrics(0.25), {"distill": 1.5, "predict": 2.0}


def finished(outcome):
    return [name for name, reason in outcome.items() if reason is None]


def go(directory, rows=SOME, seeds=(1, 2), trainer=None, **options):
    """Runs what is missing; returns the outcome and what was trained."""
    trainer = trainer or Trainer()
    plans = plan_runs(rows, seeds, "mini", "b")
    todo, _ = missing_runs(plans, rows, directory, [results_folder(directory, "mini")])
    return run_missing(todo, directory, launch_run=trainer, **options), getattr(trainer, "ran", None)


def test_all_is_run_once_and_then_nothing(tmp_path):
    outcome, ran = go(tmp_path)
    assert ran == ["sft-seed1", "mcg-seed1", "sasg-seed1", "teacher", "sft-seed2", "mcg-seed2", "sasg-seed2"]
    assert outcome == dict.fromkeys(ran)
    assert go(tmp_path) == ({}, [])
    assert go(tmp_path, seeds=(1, 2, 3))[1] == ["sft-seed3", "mcg-seed3", "sasg-seed3"]


def test_a_result_says_what_it_is_of(tmp_path):
    go(tmp_path, rows=[ROWS["mcg"]], seeds=[2], inputs=lambda plan: {"models/base": plan.row.name})
    plan = plan_run(ROWS["mcg"], 2, "mini", "b")
    found = find_result(plan, [results_folder(tmp_path, "mini")])
    assert (found["row"], found["seed"], found["scale"]) == ("mcg", 2, "mini")
    assert (found["hash"], found["recipe"], found["inputs"]) == (plan.hash, plan.keys, {"models/base": "mcg"})
    assert (found["seconds"], found["phases"]) == (3.5, {"distill": 1.5, "predict": 2.0})
    assert found["versions"].keys() >= {"python", "torch", "llamafactory", "llamafactory-clinkd"}
    assert "problems" not in found["metrics"]
    assert score(found, "VG") == 25 and score_interval(found, "VG") == (23, 27)
    assert str(tmp_path) not in json.dumps(found)


def test_a_failed_row_does_not_stop_the_others_and_is_run_again(tmp_path):
    trainer = Trainer(failing=["sft-seed1"])
    said = []
    outcome, ran = go(tmp_path, trainer=trainer, on_progress=lambda plan, text: said.append((plan.name, text)))
    assert "told to" in outcome["sft-seed1"] and "needs the model of sft-seed1" in outcome["sasg-seed1"]
    assert "sasg-seed1" not in ran and finished(outcome) == [
        "mcg-seed1",
        "teacher",
        "sft-seed2",
        "mcg-seed2",
        "sasg-seed2",
    ]
    assert ("sft-seed1", "failed") in said and ("mcg-seed1", "finished") in said and ("mcg-seed1", "distill") in said
    assert go(tmp_path)[1] == ["sft-seed1", "sasg-seed1"]


def test_two_runs_at_a_time(tmp_path):
    both = threading.Barrier(2, timeout=30)

    def together(plan, directory, tell):
        if plan.row.name in ("sft", "mcg"):
            both.wait()
        return Trainer()(plan, directory, tell)

    rows = [ROWS[name] for name in ("sft", "mcg", "sasg")]
    outcome, _ = go(tmp_path, rows=rows, jobs=2, trainer=together)
    assert finished(outcome) == ["sft-seed1", "mcg-seed1", "sasg-seed1", "sft-seed2", "mcg-seed2", "sasg-seed2"]


def test_a_row_that_waits_for_a_model_takes_no_place(tmp_path):
    both = threading.Barrier(2, timeout=30)

    def together(plan, directory, tell):
        if plan.row.name != "sasg":
            both.wait()
        return Trainer()(plan, directory, tell)

    plans = plan_runs([ROWS[name] for name in ("sft", "sasg", "mcg")], [1], "mini", "b")
    assert [plan.name for plan in plans] == ["sft-seed1", "sasg-seed1", "mcg-seed1"]
    outcome = run_missing(plans, tmp_path, jobs=2, launch_run=together)
    assert finished(outcome) == ["sft-seed1", "sasg-seed1", "mcg-seed1"]


def test_an_interrupt_ends_the_other_runs_too(tmp_path):
    under_way, ended = threading.Event(), []

    def run(plan, directory, tell):
        if plan.row.name == "sft":
            under_way.wait(30)
            raise KeyboardInterrupt
        try:
            while True:
                tell("distill")
                under_way.set()
        finally:
            ended.append(plan.name)

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, rows=[ROWS["sft"], ROWS["mcg"]], seeds=[1], jobs=2, trainer=run)
    assert ended == ["mcg-seed1"] and not list(results_folder(tmp_path, "mini").glob("*"))


def test_a_row_brings_the_run_that_it_uses(tmp_path):
    assert go(tmp_path, rows=[ROWS["sasg"]], seeds=[1])[1] == ["sft-seed1", "sasg-seed1"]
    assert go(tmp_path, rows=[ROWS["sft"], ROWS["sasg"]], seeds=[1])[1] == []


def test_a_result_from_elsewhere_counts_but_a_model_cannot_come_with_it(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    go(there, rows=[ROWS["sft"]], seeds=[1])
    rows = [ROWS["sft"], ROWS["sasg"]]
    plans = plan_runs(rows, [1], "mini", "b")
    folders = [results_folder(here, "mini"), results_folder(there, "mini")]
    todo, found = missing_runs(plans, rows, here, folders)
    assert [plan.name for plan in todo] == ["sft-seed1", "sasg-seed1"] and not found
    todo, found = missing_runs(plans[:1], rows[:1], here, folders)
    assert not todo and [plan.name for plan in found] == ["sft-seed1"]


def test_another_recipe_is_another_run(tmp_path):
    go(tmp_path, rows=[ROWS["sft"]], seeds=[1])
    plans = plan_runs([ROWS["sft"]], [1], "mini", "other data")
    todo, _ = missing_runs(plans, [ROWS["sft"]], tmp_path, [results_folder(tmp_path, "mini")])
    assert todo == plans
    assert not has_model(plans[0], tmp_path)
    outcome = run_missing(todo, tmp_path, launch_run=Trainer())
    assert "holds a run of another recipe" in outcome["sft-seed1"]
    assert run_missing(todo, tmp_path, fresh=True, launch_run=Trainer()) == {"sft-seed1": None}
    assert has_model(plans[0], tmp_path)


def test_an_interrupted_run_keeps_its_folder(tmp_path):
    plan = plan_run(ROWS["sft"], 1, "mini", "b")
    write_recipe(plan, tmp_path)
    kept = run_folder(plan, tmp_path) / "clinkd" / "distill" / "checkpoint-3"
    kept.mkdir(parents=True)
    take_folder(plan, tmp_path, fresh=True)
    assert kept.is_dir() and not has_model(plan, tmp_path)


def test_a_folder_with_a_log_alone_is_empty(tmp_path):
    plan = plan_run(ROWS["sft"], 1, "mini", "b")
    folder = run_folder(plan, tmp_path)
    folder.mkdir(parents=True)
    (folder / "log.txt").touch()
    take_folder(plan, tmp_path, fresh=False)
    (folder / "model.safetensors").touch()
    with pytest.raises(RunFailed, match="another recipe"):
        take_folder(plan, tmp_path, fresh=False)


def test_a_half_trained_model_is_none(tmp_path):
    go(tmp_path, rows=[ROWS["sft"]], seeds=[1])
    plan = plan_run(ROWS["sft"], 1, "mini", "b")
    assert has_model(plan, tmp_path)
    state = run_folder(plan, tmp_path) / "clinkd" / "state.json"
    state.write_text(json.dumps({"phases": {"distill": {"status": "finished"}, "correct": {"status": "started"}}}))
    assert not has_model(plan, tmp_path)


def test_a_run_that_another_process_makes_is_left_alone(tmp_path):
    plan = plan_run(ROWS["sft"], 1, "mini", "b")
    folder = write_recipe(plan, tmp_path).parent
    code = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)\n"
    code += "input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "log.txt")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(RunFailed, match="is running in .*sft-seed1, in another process"):
        launch(plan, tmp_path, lambda text: None)
    other.communicate("\n")


def test_the_end_of_a_log_has_one_line_of_a_progress_bar(tmp_path):
    bar = "".join(f"\r{number}% done" for number in range(0, 100, 10))
    (tmp_path / "log.txt").write_bytes(f"start\n{bar}\nTraceback\n  \nValueError: what it was\n\xff".encode("latin-1"))
    assert last_lines(tmp_path / "log.txt").splitlines()[-4:] == ["90% done", "Traceback", "ValueError: what it was",
                                                                   "\ufffd"]  # fmt: skip


@pytest.mark.parametrize("text", ["", "1,1", "a", "1,-2", "1.5"])
def test_seeds_are_numbers(text):
    with pytest.raises(ValueError, match="expected distinct whole numbers"):
        choose_seeds(text)
    assert choose_seeds("3, 1") == [3, 1]


def test_rows_come_in_the_order_of_the_table():
    assert [row.name for row in choose_rows("table2", "mini", "sasg, sft")] == ["sft", "sasg"]
    assert choose_rows("table3", "paper", None) == rows_of("table3", "paper")
    with pytest.raises(ValueError, match="Unknown rows vkd of table2 at scale mini: expected some of sft, bird"):
        choose_rows("table2", "mini", "vkd,sft")
    with pytest.raises(ValueError, match="`on_policy` has no rows to compare at scale paper"):
        choose_rows("on_policy", "paper", None)


@pytest.fixture
def clinkd(monkeypatch, tmp_path):
    """``clinkd reproduce`` whose runs are made by a :class:`Trainer`, without a benchmark to build."""
    from llamafactory_clinkd.cli import with_all_commands

    trainer = Trainer()
    monkeypatch.setattr(command, "prepare", lambda *args: None)
    monkeypatch.setattr(command, "inputs_of", lambda plan: {})
    monkeypatch.setattr(command, "benchmark_of", lambda scale: "b")
    stock = command.run_missing
    monkeypatch.setattr(command, "run_missing", lambda *args, **named: stock(*args, launch_run=trainer, **named))

    def call(*words):
        arguments = ["reproduce", *words, "--directory", str(tmp_path)]
        return CliRunner().invoke(with_all_commands(), arguments, env={"COLUMNS": "200"})

    call.trainer, call.folder = trainer, tmp_path
    return call


def test_the_command_runs_and_writes_the_table(clinkd):
    done = clinkd("table3", "--scale", "mini", "--rows", "sft,mcg", "--seeds", "1,2", "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert clinkd.trainer.ran == ["sft-seed1", "mcg-seed1", "sft-seed2", "mcg-seed2"]
    text = (clinkd.folder / "mini" / "table3.md").read_text()
    assert "| VG | recall@0.5 | + MCG-RoPE | 20.00 ± 0.00 |" in text and text in done.output
    assert (clinkd.folder / "mini" / "table3.csv").read_text().startswith("table,row,task")
    again = clinkd("table3", "--scale", "mini", "--rows", "sft", "--seeds", "1,2")
    assert again.exit_code == 0 and len(clinkd.trainer.ran) == 4
    assert "| VG | recall@0.5 | + MCG-RoPE | 20.00 ± 0.00 |" in again.output  # the table has what was run before


def test_the_command_ends_with_an_error_and_the_end_of_the_log_where_a_row_failed(clinkd):
    clinkd.trainer.failing = {"mcg-seed1"}
    done = clinkd("table2", "--scale", "mini", "--rows", "sft,mcg,bird", "--seeds", "1", "--jobs", "1")
    assert done.exit_code == 1
    assert "Failed: mcg-seed1" in done.output and "ValueError: told to" in done.output
    assert clinkd.trainer.ran == ["sft-seed1", "bird-seed1", "mcg-seed1"]
    assert "| BiRD-like: 2D-RoPE, SFT |" in (clinkd.folder / "mini" / "table2.md").read_text()


def test_table_only_runs_nothing_and_says_what_is_missing(clinkd):
    done = clinkd("figure4", "--scale", "mini", "--seeds", "1", "--table-only")
    assert done.exit_code == 0 and clinkd.trainer.ran == []
    assert "8 runs are missing: sft-seed1, alpha_0_1-seed1" in done.output and "No result yet" in done.output


def test_figure_4_is_a_picture_beside_its_numbers(clinkd):
    done = clinkd("figure4", "--scale", "mini", "--rows", "sft,pseudo_kd,alpha_2", "--seeds", "1")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (clinkd.folder / "mini").glob("figure4*")} == {
        "figure4.md", "figure4.csv", "figure4.png",
    }  # fmt: skip


def test_a_dry_run_prints_recipes_and_costs_and_writes_nothing(clinkd):
    handmade.write(results_folder(clinkd.folder, "mini"), "sft", 1, handmade.metrics(0.3), benchmark="b", seconds=7200)
    before = sorted(clinkd.folder.rglob("*"))
    done = clinkd("table2", "--scale", "mini", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "2.00" in done.output and "36 runs, CPU" in done.output and "rope_variant" not in done.output
    assert len(done.output.splitlines()) < 40, "a line for each row of the table"
    with_recipes = clinkd("table2", "--scale", "mini", "--dry-run", "--recipes").output
    assert with_recipes.count("### llamafactory-cli train") == 13 and "rope_variant: mcg" in with_recipes
    assert sorted(clinkd.folder.rglob("*")) == before and clinkd.trainer.ran == []


def test_unknown_rows_are_told(clinkd):
    done = clinkd("table2", "--scale", "mini", "--rows", "sfd")
    assert done.exit_code == 2 and "Unknown rows sfd" in done.output
