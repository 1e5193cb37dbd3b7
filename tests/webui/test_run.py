# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""A run that a browser starts, watches, stops, resumes and sees end."""

import json
import re

import pytest

from llamafactory_clinkd.webui.locales import texts


pytestmark = pytest.mark.slow

EXTRA_ARGS = json.dumps({"optim": "sgd", "preprocessing_num_workers": 1, "logging_steps": 1, "max_new_tokens": 6})
MINUTES = 60_000
MESSAGES, PHASES = texts("en")["messages"], texts("en")["phases"]


def phase_text(number, total, phase):
    return MESSAGES["phase"].format(number=number, total=total, name=PHASES[phase])


def test_start_watch_stop_resume_and_report(open_board, server, workspace, tmp_path):
    from llamafactory.webui.locales import ALERTS

    board = open_board()
    board.page.set_default_timeout(4 * MINUTES)
    board.set_up_run(workspace, "watched", EXTRA_ARGS)
    board.open("distillation", "selection")
    board.fill(board.words("ref_model"), str(workspace / "teacher"))
    board.fill(board.words("kd_epochs"), "40")
    board.choose(board.words("eval_dataset"), "tiny_test")
    board.fill(board.words("sasg_scorer"), "logprob")
    for phase in ("pseudo_label", "correct"):
        board.page.get_by_label(PHASES[phase], exact=True).uncheck()
    board.press("Start")
    board.wait_for_text(re.compile(re.escape(phase_text(1, 3, "distill")) + r" · \d+/40"))
    board.page.screenshot(path=tmp_path / "running.png", full_page=True)

    second = open_board()  # the page was closed and opened again, or another user came
    second.wait_for_text(phase_text(1, 3, "distill"))
    second.press("Preview command")
    second.wait_for_text(ALERTS["err_conflict"]["en"])
    second.page.screenshot(path=tmp_path / "second.png", full_page=True)

    board.press("Abort")
    board.wait_for_text(ALERTS["info_aborted"]["en"])
    folder = server.folder / "saves" / "Qwen2-VL-2B-Instruct" / "full" / "watched"
    state = json.loads((folder / "clinkd" / "state.json").read_text(encoding="utf-8"))
    assert state["phases"]["distill"]["status"] == "started" and "predict" not in state["phases"]
    board.page.screenshot(path=tmp_path / "stopped.png", full_page=True)

    board.press("Start")
    board.wait_for_text(phase_text(2, 3, "predict"))
    link = board.page.get_by_role("link", name=MESSAGES["report"])
    link.wait_for()
    board.page.screenshot(path=tmp_path / "finished.png", full_page=True)
    lines = [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"ce", "kl", "loss"} <= set(lines[0])

    with board.page.context.expect_page() as opened:
        link.click(modifiers=["Control"])
    report = opened.value
    report.wait_for_load_state()
    report.screenshot(path=tmp_path / "report.png")
    assert report.locator("h1, h2").count() > 0 and "ROC" in report.content()
    secret = board.page.request.get(f"{server.url}gradio_api/file={folder / 'clinkd' / 'predictions.jsonl'}")
    assert secret.status == 403
    told = server.log.read_text(encoding="utf-8")
    assert "sk-never-shown" not in told and "Where is the square" not in told


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
    board.page.screenshot(path=tmp_path / "scored.png", full_page=True)
    table = tab.get_by_role("table").first.inner_text()
    assert all(task in table for task in ("VG", "ROC", "RC", "MIA", "ct", MESSAGES["mean"]))
    folder = server.folder / "saves" / "Qwen2-VL-2B-Instruct" / "full" / "scored"
    metrics = json.loads((folder / "clinkd" / "metrics.json").read_text(encoding="utf-8"))
    assert MESSAGES["average"].format(value=f"{100 * metrics['average']:.2f}") in tab.inner_text()
