# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A real vLLM server with this checkout's plugin, in the environment whose python ``CLINKD_VLLM_PYTHON`` names."""

import base64
import configparser
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


def vllm_python() -> str:
    """The python of vLLM's environment; skips the test without one."""
    python = os.environ.get("CLINKD_VLLM_PYTHON", "")
    if not Path(python).is_file():
        pytest.skip("CLINKD_VLLM_PYTHON does not name the python of an environment with vLLM (docs/serving.md)")
    return python


def vllm_environment(folder: Path) -> dict[str, str]:
    """An environment in which vLLM finds the package as ``pip install --no-deps`` installs it."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    info = folder / "site" / "llamafactory_clinkd-0.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llamafactory-clinkd\nVersion: 0.0\n")
    groups = setup["options.entry_points"]
    (info / "entry_points.txt").write_text("".join(f"[{group}]{groups[group]}\n" for group in groups))
    package = folder / "site" / "llamafactory_clinkd"
    if not package.exists():
        package.symlink_to(ROOT / "llamafactory_clinkd")
    own = {"PYTHONPATH": str(folder / "site"), "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return {
        **os.environ,
        **own,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
        "VLLM_CACHE_ROOT": str(folder / "cache"),
    }


@contextmanager
def vllm_server(model: Path, folder: Path, *options: str, clinkd_serve: bool = False, seconds: int = 900):
    """Yields the base URL of a server of the folder ``model``; its output is in ``folder/server.log``.

    ``clinkd serve`` starts it with ``clinkd_serve``, else vLLM's own command.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    entry = [vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    entry += ["--host", "127.0.0.1"]
    if clinkd_serve:
        entry = [sys.executable, "-m", "llamafactory_clinkd", "serve", str(model), "--run", "--port", str(port), "--"]
    small = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "8"]
    log = folder / "server.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*entry, *small, *options],
            env=vllm_environment(folder), cwd=folder, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(seconds):
            if process.poll() is not None:
                raise RuntimeError(f"vLLM ended with {process.returncode}:\n{log.read_text()[-6000:]}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(1)
        else:
            raise RuntimeError(f"vLLM does not answer after {seconds} seconds:\n{log.read_text()[-6000:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # while it starts, it does not end by itself
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)


def data_url(image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def ask(url: str, question: str, image, **options) -> dict:
    """One chat completion about one picture."""
    content = [{"type": "image_url", "image_url": {"url": data_url(image)}}, {"type": "text", "text": question}]
    body = {"model": options.pop("model", None), "messages": [{"role": "user", "content": content}], **options}
    if body["model"] is None:
        with urllib.request.urlopen(f"{url}/models", timeout=60) as response:
            body["model"] = json.load(response)["data"][0]["id"]
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.load(response)
