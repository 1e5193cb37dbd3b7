# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A run that a browser starts, watches, stops, resumes and sees end."""

import contextlib
import json
import os
import re
import time

import psutil
import pytest
from chromium import take_pictures

from llamafactory_clinkd.webui.locales import texts


pytestmark = pytest.mark.slow

EXTRA_ARGS = json.dumps({"optim": "sgd", "preprocessing_num_workers": 1, "logging_steps": 1, "max_new_tokens": 6})
MINUTES = 60_000
PAGE_HEIGHT = 7000  # pixels, with every accordion of ours open and the report in the page
MESSAGES = texts("en")["messages"]


def phase_text(number, total, phase):
    return MESSAGES["phase"].format(number=number, total=total, name=phase)


def command_of(process):
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a helper of the board that has just ended
        return []


@contextlib.contextmanager
def training_held(server, reached):
    """Suspends the run that the server has started as soon as ``reached()``, however fast its steps are."""
    deadline = time.monotonic() + 240
    while not reached():
        assert time.monotonic() < deadline, server.log.read_text(encoding="utf-8")[-2000:]
        time.sleep(0.02)
    children = psutil.Process(server.process.pid).children(recursive=True)
    training = [child for child in children if "train" in command_of(child)]
    assert training, [command_of(child) for child in children]
    for process in training:
        process.suspend()
    try:
        yield training
    finally:
        for process in training:
            process.resume()


def test_start_watch_stop_resume_and_report(open_board, server, workspace, tmp_path):
    from llamafactory.webui.locales import ALERTS

    board = open_board()
    board.page.set_default_timeout(4 * MINUTES)
    board.set_up_run(workspace, "watched", EXTRA_ARGS)
    board.open("distillation", "selection")
    board.fill(board.words("ref_model"), str(workspace / "teacher"))
    board.fill(board.words("kd_epochs"), "60")
    board.choose(board.words("eval_dataset"), "tiny_test")
    board.fill(board.words("sasg_scorer"), "logprob")
    for phase in ("pseudo_label", "correct"):
        board.page.get_by_label(phase, exact=True).first.uncheck()  # the second group is `generation_phases`
    board.press("Start")
    folder = server.folder / "saves" / "Qwen2-VL-2B-Instruct" / "full" / "watched"
    log, state = folder / "trainer_log.jsonl", folder / "clinkd" / "state.json"
    with training_held(server, lambda: log.is_file() and log.read_text(encoding="utf-8")):
        board.wait_for_text(re.compile(re.escape(phase_text(1, 3, "distill")) + r" · \d+/60"))
        take_pictures(board.page, tmp_path, "running")

        second = open_board()  # the page was closed and opened again, or another user came
        second.wait_for_text(phase_text(1, 3, "distill"))
        second.press("Preview command")
        second.wait_for_text(ALERTS["err_conflict"]["en"])
        take_pictures(second.page, tmp_path, "second")

        board.press("Abort")
        board.wait_for_text(ALERTS["info_aborting"]["en"])
    board.wait_for_text(ALERTS["info_aborted"]["en"])
    phases = json.loads(state.read_text(encoding="utf-8"))["phases"]
    assert phases["distill"]["status"] == "started" and "predict" not in phases
    take_pictures(board.page, tmp_path, "stopped")

    board.press("Start")
    with training_held(server, lambda: "predict" in json.loads(state.read_text(encoding="utf-8"))["phases"]):
        board.wait_for_text(phase_text(2, 3, "predict"))
    link = board.page.get_by_role("link", name=MESSAGES["report"])
    link.wait_for()
    take_pictures(board.page, tmp_path, "finished")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert {"ce", "kl", "loss"} <= set(lines[0])

    frame = board.page.frame_locator("iframe[title='ClinKD report']")
    frame.get_by_role("heading", level=1).wait_for()
    assert board.page.evaluate("document.documentElement.scrollHeight") < PAGE_HEIGHT
    with board.page.context.expect_page() as opened:
        link.click(modifiers=["Control"])
    report = opened.value
    report.wait_for_load_state()
    take_pictures(report, tmp_path, "report")
    assert report.locator("h1, h2").count() > 0 and "ROC" in report.content()
    secret = board.page.request.get(f"{server.url}gradio_api/file={folder / 'clinkd' / 'predictions.jsonl'}")
    assert secret.status == 403
    log_text = server.log.read_text(encoding="utf-8")
    assert "sk-never-shown" not in log_text and "Where is the square" not in log_text


def write_errors(process, seconds):
    """Writes to a process's standard error for so long; an error unless the Board reads: the pipe holds 64 KiB."""
    pipe = os.open(f"/proc/{process.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    for _ in range(4 * seconds):
        deadline = time.monotonic() + 30
        while True:
            try:
                os.write(pipe, b"x" * 8192)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, "nobody reads the run's standard error"
                time.sleep(0.05)
        time.sleep(0.25)
    os.close(pipe)


def test_a_run_whose_page_is_closed_goes_on_and_is_found_again(open_board, server, workspace):
    from llamafactory.webui.locales import ALERTS

    board = open_board()
    board.page.set_default_timeout(4 * MINUTES)
    board.set_up_run(workspace, "unwatched", EXTRA_ARGS)
    board.open("distillation")
    board.fill(board.words("ref_model"), str(workspace / "teacher"))
    board.fill(board.words("kd_epochs"), "10")
    for phase in ("pseudo_label", "correct", "predict", "evaluate"):
        board.page.get_by_label(phase, exact=True).first.uncheck()
    board.press("Start")
    folder = server.folder / "saves" / "Qwen2-VL-2B-Instruct" / "full" / "unwatched"
    log, state = folder / "trainer_log.jsonl", folder / "clinkd" / "state.json"
    with training_held(server, lambda: log.is_file() and log.read_text(encoding="utf-8")) as processes:
        board.page.close()
        for process in processes:
            write_errors(process, seconds=12)
        second = open_board()
        second.wait_for_text(phase_text(1, 1, "distill"))
        second.page.close()
    psutil.wait_procs(processes, timeout=240)
    assert json.loads(state.read_text(encoding="utf-8"))["phases"]["distill"]["status"] == "finished"
    third = open_board()
    third.wait_for_text(ALERTS["info_finished"]["en"])
    third.press("Preview command")
    third.wait_for_text(re.compile("llamafactory-cli train"))  # and no longer that a run is going on


def test_evaluate_tab_shows_metrics_and_report(open_board, server, workspace, tmp_path):
    board = open_board()
    board.page.set_default_timeout(4 * MINUTES)
    board.set_up_run(workspace, "unused", EXTRA_ARGS)
    board.open("selection")
    board.fill(board.words("sasg_scorer"), "logprob")
    board.page.get_by_role("tab", name="Evaluate & Predict").click()
    tab = board.page.get_by_role("tabpanel").filter(visible=True)
    board.fill("Data dir", str(workspace / "data"), within=tab)
    board.choose("Dataset", "tiny_test", within=tab)
    board.fill("Output dir", "scored", within=tab)
    board.fill("Maximum new tokens", "8", within=tab)
    tab.get_by_role("button", name="Start", exact=True).click()
    board.wait_for_text(phase_text(1, 2, "predict"))
    link = tab.get_by_role("link", name=MESSAGES["report"])
    link.wait_for()
    take_pictures(board.page, tmp_path, "scored")
    table = tab.get_by_role("table").first.inner_text()
    assert all(task in table for task in ("VG", "ROC", "RC", "MIA", "ct", MESSAGES["mean"]))
    folder = server.folder / "saves" / "Qwen2-VL-2B-Instruct" / "full" / "scored"
    metrics = json.loads((folder / "clinkd" / "metrics.json").read_text(encoding="utf-8"))
    assert MESSAGES["average"].format(value=f"{100 * metrics['average']:.2f}") in tab.inner_text()
