# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd demo --chat``: LLaMA Board's Chat tab with a run's model, an image and a first answer."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ..arguments import PHASES
from ..utils.console import quiet_libraries
from ..utils.io import read_jsonl
from ..utils.pixels import read_pixels
from .presets import DEMO_MODEL, PACKAGE, register_demo_model
from .run_progress import progress_of


OPEN_TAB = (
    "() => [...document.querySelectorAll('button[role=tab]')].find(tab => tab.innerText.trim() === 'Chat').click()"
)


def first_question(directory: Path) -> tuple[Image.Image, str, str]:
    """Image and text of the first grounding question in a folder of ``clinkd demo``, and the scorer of its candidates.

    Raises:
        FileNotFoundError: If the folder has no finished run; the message has the command that makes one.
    """
    run = directory / "run"
    if progress_of(run, list(PHASES)).phase is not None or not (run / "config.json").is_file():
        raise FileNotFoundError(f"{run} has no finished run. Make one first: clinkd demo --directory {directory}")
    rows = read_jsonl(run / "clinkd" / "predictions.jsonl")
    row = next(row for row in rows if row["task"] == "VG")
    path = PACKAGE / "demo" / "data" / "images" / Path(row["image"]).name  # of this installation
    return read_pixels(path), row["question"], str(PACKAGE / "demo" / "models" / "scorer")


def demo_board(directory: Path) -> Any:
    """LLaMA Board, not yet running, with the model of a finished demo loaded, and the page's first question."""
    question = first_question(directory)
    from llamafactory.chat import ChatModel
    from llamafactory.webui import interface
    from llamafactory.webui.locales import ALERTS

    from ..utils.patching import patch_attr

    run = str((directory / "run").resolve())

    class DemoEngine(interface.Engine):
        """LLaMA Board's engine, whose pages start in the Chat tab."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            keys = {"model_name_or_path": run, "template": "qwen2_vl", "infer_dtype": "float32"}
            ChatModel.__init__(self.chatter, keys | {"trust_remote_code": True})
            self.first_question = question

        def resume(self) -> Iterator[dict[Any, Any]]:
            first, *later = super().resume()
            name, visible = {"value": DEMO_MODEL}, {"visible": True}
            yield first | self._update_component({"top.model_name": name, "infer.mm_box": visible})
            yield from later

        def change_lang(self, lang: str) -> dict[Any, Any]:
            loaded = self._update_component({"infer.info_box": {"value": ALERTS["info_loaded"][lang]}})
            return super().change_lang(lang) | loaded

    with patch_attr(interface, "Engine", DemoEngine):
        board = interface.create_ui()
    register_demo_model(run)
    with board:
        board.load(None, js=OPEN_TAB)
    return board


def open_demo_chat(directory: Path) -> None:
    """Serves the page until Ctrl-C, on this machine alone unless ``GRADIO_SERVER_NAME`` has another address."""
    with quiet_libraries():  # the address that gradio prints would stand below hundreds of lines
        board = demo_board(directory)
    board.queue().launch(server_name=os.getenv("GRADIO_SERVER_NAME", "127.0.0.1"), inbrowser=True)
