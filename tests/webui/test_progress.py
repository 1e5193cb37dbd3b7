# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json
from types import SimpleNamespace

import pytest

from llamafactory_clinkd.utils.io import append_jsonl, write_json
from llamafactory_clinkd.webui.monitor import draw_curves, progress_label, progress_text, with_phases
from llamafactory_clinkd.webui.run_progress import noting_parts, read_progress, training_log, writing_parts


PHASES = ["pseudo_label", "distill", "correct", "predict", "evaluate"]


def line(step, total, **values):
    return {
        "current_steps": step,
        "total_steps": total,
        "epoch": 1.0,
        "percentage": round(100 * step / total, 2),
        "elapsed_time": "0:00:10",
        "remaining_time": "0:00:30",
        **values,
    }


@pytest.fixture
def run(tmp_path):
    """A started run; ``run(finished, present)`` says how far it is."""
    (tmp_path / "training_args.yaml").write_text(
        f"use_clinkd: true\nclinkd_phases: {','.join(PHASES)}\n", encoding="utf-8"
    )

    def at(finished, present=None):
        records = {phase: {"status": "finished"} for phase in finished}
        write_json(
            tmp_path / "clinkd" / "state.json",
            {"format": 1, "phases": records | ({present: {"status": "started"}} if present else {})},
        )
        return tmp_path

    return at


def test_a_stock_run_is_not_ours(tmp_path):
    assert read_progress(tmp_path) is None
    (tmp_path / "training_args.yaml").write_text("stage: sft\n", encoding="utf-8")
    assert read_progress(tmp_path) is None


def test_before_the_first_phase(tmp_path):
    (tmp_path / "training_args.yaml").write_text("use_clinkd: true\n", encoding="utf-8")
    progress = read_progress(tmp_path)
    assert progress.phases == PHASES and progress.phase == "pseudo_label" and progress.percentage == 0


def test_answers_of_every_rank_are_counted(run):
    folder = run([], "pseudo_label")
    append_jsonl(folder / "clinkd" / "pseudo_label" / "answers.jsonl.rank0", [{"a": 1}, {"a": 2}])
    append_jsonl(folder / "clinkd" / "pseudo_label" / "answers.jsonl.rank1", [{"a": 3}])
    assert read_progress(folder).answers == 3
    assert "Answers so far: 3" in progress_text(read_progress(folder), "en")


def test_training_phases_tell_steps_and_part(run):
    folder = run(["pseudo_label"], "distill")
    append_jsonl(folder / "clinkd" / "distill" / "trainer_log.jsonl", [line(1, 4, loss=2.0), line(2, 4, loss=1.0)])
    progress = read_progress(folder)
    assert progress.percentage == 30.0
    assert progress_label(progress, "en") == "Phase 2 of 5: distillation · 2/4: 0:00:10 < 0:00:30"
    assert progress_label(progress, "zh").startswith("阶段 2/5：蒸馏")


def test_the_last_training_phase_shares_its_log_with_prediction(run):
    folder = run(["pseudo_label", "distill"], "correct")
    predicting = {key: value for key, value in line(5, 5).items() if key != "epoch"}
    append_jsonl(folder / "trainer_log.jsonl", [line(3, 4, loss=1.0), predicting])
    assert [entry["current_steps"] for entry in training_log(folder, PHASES, "correct")] == [3]


def test_corrections_are_counted_by_round(run):
    folder = run(["pseudo_label", "distill"], "correct")
    quoted = json.dumps({"status": "corrected"})
    rows = [{"status": "corrected"}, {"status": "kept", "response": quoted}, {"status": "rejected"}]
    append_jsonl(folder / "clinkd" / "corrections" / "round-1.jsonl", rows)
    append_jsonl(folder / "clinkd" / "corrections" / "round-1.outputs.jsonl", rows)
    assert read_progress(folder).corrections == [(1, 3, 1)]
    assert "Round 1: 3 answers judged, 1 corrected" in progress_text(read_progress(folder), "en")


def test_at_the_end(run):
    progress = read_progress(run(PHASES))
    assert progress.phase is None and progress.percentage == 100
    assert progress_label(progress, "ja") == "全 5 フェーズが完了しました"


def test_stock_monitor_is_left_alone_without_clinkd(tmp_path):
    stock = ("log", "slider", {"loss_viewer": "plot"})
    assert with_phases(lambda *args: stock)("en", str(tmp_path), True) == stock


def test_curves_show_cross_entropy_and_divergence_apart():
    log = [line(1, 2, loss=3.0, ce=2.0, kl=1.0), line(2, 2, loss=2.0, ce=1.5, kl=0.5)]
    figure = draw_curves({"distill": log, "correct": [line(1, 2, loss=1.0)], "other": []})
    first, second = figure.axes
    assert [curve.get_label() for curve in first.lines] == ["loss", "CE", "KL"]
    assert list(first.lines[2].get_ydata()) == [1.0, 0.5]
    assert [curve.get_label() for curve in second.lines] == ["loss"]


class StockCallback:
    """Writes its line later than it hears of it, as LLaMA-Factory's does."""

    def __init__(self):
        self.written, self.waiting = [], []

    def on_log(self, args, state, control, **kwargs):
        self.waiting.append({"current_steps": state.global_step, "loss": state.log_history[-1].get("loss")})

    def _write_log(self, output_dir, logs):
        self.written.append(logs)


class PatchedCallback(StockCallback):
    on_log = noting_parts(StockCallback.on_log)
    _write_log = writing_parts(StockCallback._write_log)


def test_parts_reach_the_line_of_their_own_step():
    callback, history = PatchedCallback(), []
    for step, entry in enumerate([{"loss": 3.0, "ce": 2.0, "kl": 1.0}, {"loss": 2.0, "ce": 1.5, "kl": 0.5}], start=1):
        history.append(entry)
        callback.on_log(None, SimpleNamespace(log_history=history, global_step=step), None)
    history.append({"train_runtime": 1.0})
    callback.on_log(None, SimpleNamespace(log_history=history, global_step=2), None)
    for logs in callback.waiting:
        callback._write_log("folder", logs)
    assert callback.written == [
        {"current_steps": 1, "loss": 3.0, "ce": 2.0, "kl": 1.0},
        {"current_steps": 2, "loss": 2.0, "ce": 1.5, "kl": 0.5},
        {"current_steps": 2, "loss": None},
    ]


def test_stock_lines_stay_as_they_are():
    callback = PatchedCallback()
    callback.on_log(None, SimpleNamespace(log_history=[{"loss": 1.0}], global_step=1), None)
    callback._write_log("folder", callback.waiting[0])
    assert callback.written == [{"current_steps": 1, "loss": 1.0}]
