# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What leaves a whole run through stock LLaMA-Factory: connections, files and log lines."""

import json
import logging

import pytest
from aiohttp import web
from small_run import recipe

from llamafactory_clinkd.utils.endpoint import RemoteNotAllowedError
from llamafactory_clinkd.utils.io import read_json, read_jsonl

from .fault_server import FaultServer, completion


pytest.importorskip("openai", reason="the openai client is not installed")

SECRET = "sk-" + "secret0" * 6
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def run(workspace, output_dir, **changes):
    from llamafactory.train.tuner import run_exp

    run_exp(recipe(workspace, output_dir, clinkd_phases="correct", ref_model=None, **changes))


@pytest.fixture(autouse=True)
def uncounted(monkeypatch):
    """``datasets`` reports to its makers that a JSON file was loaded, whoever calls it: see README, Limits."""
    monkeypatch.setattr("datasets.config.HF_UPDATE_DOWNLOAD_COUNTS", False)


class Kept(logging.Handler):
    """Keeps each message with its logger's name."""

    def __init__(self):
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record):
        self.lines.append((record.name, self.format(record)))


@pytest.fixture
def logged():
    """Every message of every logger, at the lowest level."""
    handler = Kept()
    loggers = [logging.getLogger(name) for name in (None, "llamafactory", "llamafactory_clinkd", "transformers")]
    loggers += [logging.getLogger(name) for name in ("openai", "httpx", "httpcore", "asyncio")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.DEBUG)
    yield handler.lines
    for each, level in zip(loggers, levels, strict=True):
        each.removeHandler(handler)
        each.setLevel(level)


def test_no_connection_but_loopback_and_no_key_anywhere(workspace, tmp_path, connections, monkeypatch, logged, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    seen = []

    def answer(row, headers):
        """In turn: an error that repeats the key, candidates that repeat it, one that is none of both."""
        seen.append(headers["Authorization"])
        bodies = [
            f"the key is {headers['Authorization']}",
            json.dumps({"candidates": [headers["Authorization"]]}),
            "[]",
        ]
        if len(seen) % 3 == 1:
            return web.Response(status=500, text=bodies[0])
        return web.Response(text=completion(bodies[len(seen) % 3 - 1]), content_type="application/json")

    with FaultServer(reply=answer) as server:
        run(workspace, tmp_path / "out", corrector="openai", correction_base_url=server.url)
    records = read_jsonl(tmp_path / "out" / "clinkd" / "corrections" / "round-1.jsonl")
    summary = read_json(tmp_path / "out" / "clinkd" / "corrections" / "round-1.summary.json")
    assert len(seen) >= 3 and set(seen) == {f"Bearer {SECRET}"}
    assert len(records) == summary["rows"] == summary["kept"] + summary["rejected"] == 8
    assert "Bearer [key]" in {each["text"] for record in records for each in record["candidates"]}

    assert connections and set(connections) <= LOOPBACK
    captured = capfd.readouterr()
    lines = [line for _, line in logged]
    assert any("Reflective Correction: 8 rows" in line for line in lines)
    assert SECRET not in "\n".join([*lines, captured.out, captured.err])
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"trainer_log.jsonl", "round-1.jsonl", "state.json"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_our_log_lines_hold_counts_and_no_text_of_a_row(workspace, tmp_path, logged):
    run(workspace, tmp_path / "out")
    ours = "\n".join(line for name, line in logged if name.startswith("llamafactory_clinkd"))
    assert "Reflective Correction: 8 rows" in ours and "phase 1/1: correct starts" in ours
    for record in read_jsonl(tmp_path / "out" / "clinkd" / "corrections" / "round-1.jsonl"):
        texts = [record["question"], record["annotation"], record["corrected"] or record["annotation"]]
        assert [text for text in texts if text in ours] == []


@pytest.mark.parametrize("url", [None, "https://llm.example.org/v1", "http://10.0.0.1:8000/v1"])
@pytest.mark.parametrize("named_in", ["recipe", "environment"])
def test_another_machine_is_refused_before_the_first_phase(
    workspace, tmp_path, connections, monkeypatch, url, named_in
):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    changes = {"correction_base_url": url}
    if named_in == "environment":
        changes = {}
        if url:
            monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(RemoteNotAllowedError, match="correction_allow_remote: true"):
        run(workspace, tmp_path / "out", corrector="openai", **changes)
    assert set(connections) <= LOOPBACK
    assert not (tmp_path / "out" / "clinkd" / "state.json").exists()


def test_the_default_recipe_opens_no_connection_beyond_loopback(workspace, tmp_path, connections):
    run(workspace, tmp_path / "out")
    assert (tmp_path / "out" / "clinkd" / "corrections" / "round-1.summary.json").is_file()
    assert set(connections) <= LOOPBACK


def test_a_similarity_that_cannot_be_loaded_is_reported_before_the_first_phase(workspace, tmp_path):
    with pytest.raises(ValueError, match="lexical similarity has no model"):
        run(workspace, tmp_path / "out", correction_similarity_model="some/model")
    assert not (tmp_path / "out" / "clinkd" / "state.json").exists()
