# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``llamafactory-cli api`` as a user starts it, on the loopback."""

import json
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from small_run import free_port

from llamafactory_clinkd.utils.environment import cli_command, cli_environment

from .runs import api_request, chat, infer_keys


@pytest.mark.slow
def test_served_answer_is_the_chat_s(trained, sharp_workspace, tmp_path):
    from llamafactory.chat import ChatModel

    keys = infer_keys(trained("mcg"))
    image = sharp_workspace / "data" / "images" / "ct_big.png"
    answer, _ = chat(ChatModel(keys), image)
    port = free_port()
    recipe = tmp_path / "api.yaml"
    recipe.write_text(json.dumps(keys))
    environment = cli_environment(API_HOST="127.0.0.1", API_PORT=str(port), OMP_NUM_THREADS="1")
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(cli_command("api", recipe), env=environment, stdout=log, stderr=log)
    try:
        response = ask(f"http://127.0.0.1:{port}/v1/chat/completions", api_request(image), server)
    finally:
        server.terminate()
        server.wait(30)
    assert response["choices"][0]["message"]["content"] == answer
    assert response["usage"]["completion_tokens"] == 8


def ask(url, body, server):
    """Posts as soon as the server listens; a server that ends first is an error."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    deadline = time.monotonic() + 300
    while True:
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.load(response)
        except urllib.error.URLError as error:
            refused = isinstance(error.reason, ConnectionRefusedError)
            if not refused or server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
