# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A real LLaMA Board on loopback, and pages of it in a browser."""

import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from small_run import free_port

from llamafactory_clinkd.utils.environment import cli_command, cli_environment

from .board_page import BoardPage


class Server:
    """``llamafactory-cli webui``, or a command, in a folder of its own; ``plugin=False`` leaves ClinKD unattached."""

    def __init__(self, folder: Path, *, plugin: bool = True, command: list[str] | None = None) -> None:
        self.folder = folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        self.log = folder / ("server.log" if plugin else "stock.log")
        env = cli_environment(
            GRADIO_SERVER_NAME="127.0.0.1",
            GRADIO_SERVER_PORT=str(port),
            GRADIO_ANALYTICS_ENABLED="False",
            BROWSER="true",  # LLaMA Board opens one
            OMP_NUM_THREADS="1",
            OPENAI_API_KEY="sk-never-shown",
            **({} if plugin else {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}),
        )
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command or cli_command("webui"), cwd=folder, env=env, stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Waits until it answers."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            except (urllib.error.URLError, TimeoutError):
                time.sleep(1)
        pytest.fail(f"LLaMA Board did not start: {self.log.read_text(encoding='utf-8')[-2000:]}")

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One LLaMA Board for all tests."""
    board = Server(tmp_path_factory.mktemp("board"))
    board.wait()
    yield board
    board.stop()


@pytest.fixture
def open_board(chromium, server):
    """Opens the English page in a browser session of its own, by width and colour scheme."""
    contexts, errors = [], []

    def open_one(width: int = 1280, scheme: str = "light", url: str = server.url) -> BoardPage:
        (server.folder / "llamaboard_cache" / "user_config.yaml").unlink(missing_ok=True)  # the last page's language
        context = chromium.new_context(viewport={"width": width, "height": 1000})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        return BoardPage(page, f"{url}?__theme={scheme}")

    yield open_one
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="session")
def scan(workspace):
    """An image of the data, which the answering model knows."""
    return workspace / "data" / "images" / "ct_000.png"


@pytest.fixture(scope="session")
def answering_model(workspace, scan, tmp_path_factory):
    """A ClinKD checkpoint that answers one question with a box."""
    from .answering_model import teach

    return teach(workspace / "student", tmp_path_factory.mktemp("answering") / "model", scan)


@pytest.fixture(scope="session")
def scorer(scan, tmp_path_factory):
    """An open_clip folder with weights of a few steps."""
    from miniature.clip_scorer import train_demo_scorer

    folder = tmp_path_factory.mktemp("scorer") / "few_steps_clip"
    train_demo_scorer([(scan, "a square"), (scan.with_name("ct_001.png"), "a circle")], folder, steps=2)
    return folder
