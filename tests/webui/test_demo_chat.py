# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd demo --chat``: without a finished run one line with the command, with one a page that has answered."""

import shutil
import sys

import pytest
from chromium import take_pictures
from typer.testing import CliRunner

from llamafactory_clinkd.arguments import PHASES
from llamafactory_clinkd.cli import app
from llamafactory_clinkd.utils.io import read_json, write_json, write_jsonl
from llamafactory_clinkd.webui.presets import DEMO_MODEL, PACKAGE

from .conftest import Server


@pytest.fixture
def finished(tmp_path):
    """A demo's folder whose trained model is the shipped one."""
    run = tmp_path / "demo" / "run"
    shutil.copytree(PACKAGE / "demo" / "models" / "base", run)
    write_json(run / "clinkd" / "state.json", {"phases": {phase: {"status": "finished"} for phase in PHASES}})
    row = next(row for row in read_json(PACKAGE / "demo" / "data" / "demo_test.json") if row["task"] == "VG")
    question = row["messages"][0]["content"].replace("<image>", "")
    predicted = {"task": "VG", "question": question, "image": row["images"][0]}
    write_jsonl(run / "clinkd" / "predictions.jsonl", [predicted])
    return run.parent


def test_without_a_finished_run_there_is_one_line_with_the_command(finished):
    (finished / "run" / "clinkd" / "state.json").unlink()
    for folder in (finished, finished / "nowhere"):
        done = CliRunner().invoke(app, ["demo", "--chat", "--directory", str(folder)])
        assert done.exit_code == 2
        assert done.output.splitlines() == [
            f"Error: {folder}/run has no finished run. Make one first: clinkd demo --directory {folder}"
        ]


@pytest.mark.slow
def test_the_page_opens_in_the_chat_tab_with_an_answer_and_its_boxes(chromium, finished, tmp_path):
    command = [sys.executable, "-m", "llamafactory_clinkd", "demo", "--chat", "--directory", str(finished)]
    board = Server(tmp_path, command=command)
    try:
        board.wait()
        page = chromium.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(board.url)
        picture = page.locator("img[src*='gradio_api/file']").nth(1)
        picture.wait_for()
        picture.scroll_into_view_if_needed()
        page.wait_for_function("[...document.images].filter(image => image.naturalWidth === 768).length === 1")
        take_pictures(page, tmp_path, "chat")
        assert page.get_by_role("tab", name="Chat").get_attribute("aria-selected") == "true"
        assert "read as thousandths of the picture" in page.inner_text("body")
        values = page.evaluate("[...document.querySelectorAll('input, textarea')].map(box => box.value)")
        assert {DEMO_MODEL, str(finished / "run"), "qwen2_vl"} <= set(values)
        assert "Model loaded, now you can chat with your model!" in values
        page.close()
    finally:
        board.stop()
