# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json
from types import SimpleNamespace

import pytest

from llamafactory_clinkd.evaluate import evaluate_predictions
from llamafactory_clinkd.utils.io import append_jsonl, write_json
from llamafactory_clinkd.webui.monitor import (
    LOG_LINES,
    draw_curves,
    metrics_markdown,
    progress_label,
    progress_text,
    trainer_info,
)
from llamafactory_clinkd.webui.run_progress import (
    collect_loss_terms,
    read_progress,
    read_trainer_log,
    write_loss_terms,
)


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
    """A started run; ``run(finished, current)`` sets its progress."""
    (tmp_path / "training_args.yaml").write_text(
        f"use_clinkd: true\nclinkd_phases: {','.join(PHASES)}\n", encoding="utf-8"
    )

    def at(finished, current=None):
        records = {phase: {"status": "finished"} for phase in finished}
        write_json(
            tmp_path / "clinkd" / "state.json",
            {"format": 1, "phases": records | ({current: {"status": "started"}} if current else {})},
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


def test_training_phases_report_steps_and_fraction(run):
    folder = run(["pseudo_label"], "distill")
    append_jsonl(folder / "clinkd" / "distill" / "trainer_log.jsonl", [line(1, 4, loss=2.0), line(2, 4, loss=1.0)])
    progress = read_progress(folder)
    assert progress.percentage == 30.0
    assert progress_label(progress, "en") == "Phase 2 of 5: distill · 2/4: 0:00:10 < 0:00:30"
    assert progress_label(progress, "zh").startswith("阶段 2/5：distill")


def test_the_last_training_phase_shares_its_log_with_prediction(run):
    folder = run(["pseudo_label", "distill"], "correct")
    predicting = {key: value for key, value in line(5, 5).items() if key != "epoch"}
    append_jsonl(folder / "trainer_log.jsonl", [line(3, 4, loss=1.0), predicting])
    assert [entry["current_steps"] for entry in read_trainer_log(folder, PHASES, "correct")] == [3]


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
    assert trainer_info(lambda *args: stock, "en", str(tmp_path), True) == stock


def test_curves_show_cross_entropy_and_divergence_apart():
    log = [line(1, 2, loss=3.0, ce=2.0, kl=1.0), line(2, 2, loss=2.0, ce=1.5, kl=0.5)]
    figure = draw_curves({"distill": log, "correct": [line(1, 2, loss=1.0)], "other": []})
    first, second = figure.axes
    assert [curve.get_label() for curve in first.lines] == ["loss", "CE", "KL"]
    assert list(first.lines[2].get_ydata()) == [1.0, 0.5]
    assert [curve.get_label() for curve in second.lines] == ["loss"]


def test_a_run_shorter_than_logging_steps_draws_no_empty_axes(run, monkeypatch):
    pytest.importorskip("gradio", reason="gradio is not installed: it comes with LLaMA-Factory's own requirements")
    folder = run(["pseudo_label"], "distill")
    append_jsonl(folder / "clinkd" / "distill" / "trainer_log.jsonl", [line(3, 3, lr=0.0)])
    stock = ("", "slider", {"loss_viewer": "stock's empty axes"})
    assert "loss_viewer" not in trainer_info(lambda *args: stock, "en", str(folder), True)[2]
    figure = draw_curves({"distill": [line(3, 3, lr=0.0)], "correct": [line(1, 2, loss=1.0)]})
    assert [axis.get_title() for axis in figure.axes] == ["correct"]


def test_only_the_end_of_a_long_log_is_on_the_page(run):
    pytest.importorskip("gradio", reason="gradio is not installed: it comes with LLaMA-Factory's own requirements")
    log = "\n".join(f"line {number}" for number in range(900))
    shown = trainer_info(lambda *args: (f"```\n{log}\n```\n", "slider", {}), "en", str(run([], "pseudo_label")), True)[
        0
    ]
    assert shown.endswith("line 899\n```\n") and shown.count("\nline ") == LOG_LINES and "line 859" not in shown


class StockCallback:
    """Writes its line some time after ``on_log``, as LLaMA-Factory's does."""

    def __init__(self):
        self.written, self.waiting = [], []

    def on_log(self, args, state, control, **kwargs):
        self.waiting.append({"current_steps": state.global_step, "loss": state.log_history[-1].get("loss")})

    def _write_log(self, output_dir, logs):
        self.written.append(logs)


class PatchedCallback(StockCallback):
    def on_log(self, *args, **kwargs):
        return collect_loss_terms(StockCallback.on_log, self, *args, **kwargs)

    def _write_log(self, *args):
        return write_loss_terms(StockCallback._write_log, self, *args)


def test_loss_terms_are_written_to_the_line_of_their_step():
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


def test_table_has_a_row_for_each_modality_present():
    rows = [
        {"question": "What anatomical structure is present at the <box>(1,1),(9,9)</box>?", "annotation": "Hip",
         "response": answer, "task": "ROC", "modality": modality}
        for answer, modality in [("Hip", "ct"), ("Sacrum", "ct"), ("the hip", "mr")]
    ]  # fmt: skip
    table = metrics_markdown(evaluate_predictions(rows), "en").splitlines()
    assert table[0].startswith("| modality | ROC (`")
    assert table[2:6] == ["| ct | 50.00 |", "| mr | 100.00 |", "| **mean** | **75.00** |", "| rows | 3 |"]
    assert "Average of the tasks: 75.00 %" in table


def test_scores_that_are_absent_are_a_dash():
    metrics = {"tasks": {"RC": {"metric": "spice", "macro": None, "n": 2, "modalities": {"ct": {"value": None}}}}}
    table = metrics_markdown(metrics | {"average": None}, "ko")
    assert "| ct | – |" in table and "| **평균** | **–** |" in table
