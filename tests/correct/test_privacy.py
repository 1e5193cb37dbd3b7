# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json
import logging

import pytest
from aiohttp import web
from typer.testing import CliRunner

from llamafactory_clinkd import doctor
from llamafactory_clinkd.cli import app
from llamafactory_clinkd.correct import (
    correct_round,
    describe_recipe,
    describe_sending,
    load_similarity,
    make_corrector,
)
from llamafactory_clinkd.correct.privacy import is_loopback, resolve_base_url
from llamafactory_clinkd.doctor import read_recipe, sending
from llamafactory_clinkd.utils.endpoint import RemoteNotAllowedError

from .fault_server import FaultServer, make_rows


pytest.importorskip("openai", reason="the openai client is not installed")

SECRET = "sk-" + "secret0" * 6


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1/v1", True),
        ("http://127.8.9.1:1", True),
        ("http://[::1]:80/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://127.0.0.1.example.org/v1", False),
        ("http://localhost.example.org", False),
        ("http://0.0.0.0:8000", False),
        ("http://192.168.0.1", False),
    ],
)
def test_is_loopback(url, expected):
    assert is_loopback(url) is expected


@pytest.mark.parametrize("base_url", [None, "https://llm.example.org/v1", "http://10.0.0.1:8000/v1"])
def test_remote_is_refused_before_any_connection(base_url, connections, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with pytest.raises(RemoteNotAllowedError, match="correction_allow_remote: true") as caught:
        make_corrector("openai", base_url=base_url)
    assert "ground-truth answer" in str(caught.value) and SECRET not in str(caught.value)
    assert connections == []


def test_the_url_of_the_environment_is_held_to_the_same_rule(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere.example.org/v1")
    with pytest.raises(RemoteNotAllowedError, match="elsewhere.example.org"):
        make_corrector("openai")


def test_allowed_remote_needs_a_key():
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
        make_corrector("openai", allow_remote=True)


def test_allowed_remote_is_built_without_connecting(connections, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert SECRET not in make_corrector("openai", allow_remote=True).name
    assert connections == []


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1/v1", "127.0.0.1:8000", "http:///v1", "http://127.0.0.1:99999/v1", "http://127.0.0.1:port/v1"]
    + ["http://127.0.0.1:0/v1", "http://[::1/v1", "http://127.0.0.1\\.example.org/v1", "http://exa mple.org/v1"]
    + ["http://%6c.example.org/v1", "http://127.0.0.1/v1?key=1", "http://127.0.0.1/\nv1", "http://-a.example.org"],
)
def test_unusable_urls(url):
    with pytest.raises(ValueError, match="expected a URL"):
        make_corrector("openai", base_url=url)


def test_plain_http_to_another_machine_needs_a_key_of_its_own(monkeypatch, connections):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    remote = {"base_url": "http://llm.example.org/v1", "allow_remote": True}
    with pytest.raises(RemoteNotAllowedError, match="correction_allow_http: true"):
        make_corrector("openai", **remote)
    assert make_corrector("openai", **remote, allow_http=True).base_url == remote["base_url"]
    keys = {**CORRECTS, "correction_base_url": remote["base_url"], "correction_allow_remote": True}
    with pytest.raises(ValueError, match="plain http"):
        describe_recipe(keys)
    assert "LEAVE THIS MACHINE" in describe_recipe({**keys, "correction_allow_http": True})
    assert connections == []


@pytest.mark.parametrize("key", ["sk-secret\n", "sk secret", "sk-sécret"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY has blanks") as caught:
        make_corrector("openai", base_url="http://127.0.0.1:1/v1")
    assert key not in str(caught.value)


def test_a_password_in_the_url_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match="user name or password") as caught:
        resolve_base_url("http://me:hunter2@127.0.0.1/v1")
    assert "hunter2" not in str(caught.value)


def run(server, tmp_path, rows):
    from llamafactory_clinkd.correct.client import OpenAICorrector

    corrector = OpenAICorrector(model="m", base_url=server.url, concurrency=4, backoff=0.001)
    return correct_round(
        rows, similarity=load_similarity("lexical"), corrector=corrector, out_path=tmp_path / "round-1.jsonl"
    )


def test_only_loopback_is_contacted_despite_proxies(connections, monkeypatch, tmp_path):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.example.org:3128")
    with FaultServer(faults=False) as server:
        summary = run(server, tmp_path, make_rows(20))
        assert server.requests.total() == 18
    assert summary.corrected > 0
    assert set(connections) == {"127.0.0.1"}


def test_a_redirect_to_another_machine_is_not_followed(connections, tmp_path):
    def answer(row, headers):
        return web.Response(status=307, headers={"Location": "https://elsewhere.example.org/v1/chat/completions"})

    with FaultServer(reply=answer) as server:
        summary = run(server, tmp_path, make_rows(5))
    assert summary.rejections == {"http_307": 4}
    assert set(connections) == {"127.0.0.1"}


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_the_key_and_the_texts_stay_out_of_logs_and_the_key_out_of_files(status, monkeypatch, tmp_path, caplog, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    seen = set()

    def answer(row, headers):
        seen.add(headers["Authorization"])
        return web.Response(status=status, text=f"your key {headers['Authorization']} and {rows[1]['annotation']}")

    rows = make_rows(3)
    with FaultServer(reply=answer) as server, caplog.at_level(logging.DEBUG):
        for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "asyncio"):
            caplog.set_level(logging.DEBUG, logger=name)
        run(server, tmp_path, rows)
    assert seen == {f"Bearer {SECRET}"}

    captured = capfd.readouterr()
    logged = caplog.text + captured.out + captured.err
    assert "3 rows" in logged
    assert SECRET not in logged and "kidney" not in logged and "I see nothing" not in logged
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        assert SECRET not in path.read_text()


def test_describe_sending():
    assert "nothing is sent" in describe_sending("offline")
    assert "on this machine" in describe_sending("openai", "http://127.0.0.1:8000/v1")
    assert "refused" in describe_sending("openai")
    assert "LEAVE THIS MACHINE for api.openai.com" in describe_sending("openai", allow_remote=True)


CORRECTS = {"use_clinkd": True, "corrector": "openai"}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "no ClinKD phase"),
        ({"use_clinkd": True}, "offline corrector: nothing is sent"),
        ({**CORRECTS, "clinkd_phases": "distill, predict"}, "no phase `correct`"),
        ({**CORRECTS, "clinkd_phases": ["distill"]}, "no phase `correct`"),
        ({**CORRECTS, "correction_rounds": 1}, "one round"),
        ({**CORRECTS, "correction_base_url": "http://127.0.0.1:8000/v1"}, "go to 127.0.0.1, on this machine"),
        ({**CORRECTS, "correction_allow_remote": True}, "LEAVE THIS MACHINE for api.openai.com"),
    ],
)
def test_describe_recipe(keys, expected):
    assert expected in describe_recipe(keys)


@pytest.mark.parametrize("keys", [CORRECTS, {**CORRECTS, "correction_base_url": "ftp://x"}])
def test_describing_a_recipe_that_would_stop_raises_the_same_error(keys):
    with pytest.raises(ValueError, match="correction_base_url"):
        describe_recipe(keys)


def test_doctor_reports_what_a_recipe_sends(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("use_clinkd: true\ncorrector: openai\ncorrection_base_url: https://10.1.2.3/v1\n")
    found = sending(read_recipe(path))
    assert (found.name, found.state) == ("sends", "broken") and "10.1.2.3" in found.fix
    path.write_text(path.read_text() + "correction_allow_remote: true\n")
    found = sending(read_recipe(path))
    assert found.state == "ok" and "LEAVE THIS MACHINE for 10.1.2.3" in found.found


@pytest.mark.parametrize(
    ("allowed", "state", "expected"),
    [
        ("false", "broken", "to 10.1.2.3. If this may leave"),
        ("true", "ok", "LEAVE THIS MACHINE for 10.1.2.3"),
    ],
)
def test_the_doctor_command_reports_it_without_a_connection(
    tmp_path, monkeypatch, connections, allowed, state, expected
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)  # without a key nothing is contacted, and nothing is ready
    for name in ("versions", "attached_seams", "seam_names", "packages"):
        monkeypatch.setattr(doctor, name, lambda *_: [])
    for name in ("java", "clip_weights", "sentence_model", "devices"):
        monkeypatch.setattr(doctor, name, lambda *_, name=name: doctor.CheckResult(name, "ok", ""))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "use_clinkd: true\ncorrector: openai\ncorrection_base_url: https://10.1.2.3/v1\n"
        f"correction_allow_remote: {allowed}\n"
    )
    done = CliRunner().invoke(app, ["doctor", "--json", "--recipe", str(path)])
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert found["sends"]["state"] == state
    assert expected in found["sends"]["found"] + found["sends"]["fix"]
    assert "ground-truth answer" in found["sends"]["found"] + found["sends"]["fix"]
    assert (done.exit_code, connections) == (1, [])
