# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd serve``: the command, and what is refused before vLLM starts."""

import json
import shlex
import sys

import pytest
from typer.testing import CliRunner

from llamafactory_clinkd.rope import serve_command, vllm_plugin, write_rope_config
from llamafactory_clinkd.rope.serve_command import serve_command as command_of


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.fixture
def active(monkeypatch):
    monkeypatch.setattr(serve_command, "inactive", vllm_plugin._settings_problem)


def test_the_printed_command_serves_on_loopback_and_reports_no_use(folder, active):
    from llamafactory_clinkd.cli import with_all_commands

    write_rope_config(folder, {"variant": "mcg", "image_square": True}, image_pixels=(1024, 10**6))
    arguments = ["serve", str(folder), "--python", sys.executable, "--port", "8123", "--", "--max-model-len", "4096"]
    done = CliRunner().invoke(with_all_commands(), arguments)
    assert done.exit_code == 0, done.output
    assert "is not compared with that of the training: the folder has no tokenizer" in done.stderr
    words = shlex.split(done.stdout)
    assert words[:4] == ["VLLM_NO_USAGE_STATS=1", sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert options == {
        "--model": str(folder), "--host": "127.0.0.1", "--port": "8123", "--generation-config": "vllm",
        "--max-model-len": "4096",
    }  # fmt: skip


def test_a_model_of_stock_positions_needs_no_plugin(folder):
    write_rope_config(folder, {"variant": "mrope", "image_square": False})
    assert command_of(folder, "/no/such/python", 8000, [])[0][0] == "/no/such/python"


def test_what_vllm_cannot_have_is_refused(folder, active):
    write_rope_config(folder, {"variant": "rope_mixed"})
    with pytest.raises(ValueError, match="would answer wrongly.*learns frequencies"):
        command_of(folder, sys.executable, 8000, [])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "cannot be run"),
        ("#!/bin/sh\necho \"No module named 'llamafactory_clinkd'\" >&2; exit 1\n", "pip install --no-deps"),
        ("#!/bin/sh\necho '\"vLLM 0.11.0 is installed\"'\n", "vLLM 0.11.0 is installed"),
    ],
)
def test_the_other_environment_is_checked(folder, tmp_path, script, message):
    write_rope_config(folder, {"variant": "mcg"})
    python = tmp_path / "python"
    if script is not None:
        python.write_text(script)
        python.chmod(0o755)
    with pytest.raises(ValueError, match=message):
        command_of(folder, str(python), 8000, [])


def test_folders_without_a_whole_model_are_named(tmp_path):
    with pytest.raises(ValueError, match="no config.json"):
        command_of(tmp_path, sys.executable, 8000, [])
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "clinic/base"}))
    with pytest.raises(ValueError, match="llamafactory-cli export --model_name_or_path clinic/base"):
        command_of(tmp_path, sys.executable, 8000, [])
