# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Each line of the table of known problems: the versions and runs that it concerns, and their neighbours."""

import configparser
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from run_matrix import COMBINATIONS
from transformers import Qwen2VLConfig

from llamafactory_clinkd.arguments import ClinkdArguments
from llamafactory_clinkd.attach import versions
from llamafactory_clinkd.attach.run_facts import RunFacts
from llamafactory_clinkd.attach.versions import KNOWN_PROBLEMS, UnsupportedVersionError, check_known_problems
from llamafactory_clinkd.doctor.checks import known_problems as shown_by_doctor
from llamafactory_clinkd.rope import write_rope_config
from llamafactory_clinkd.rope.binding import SUPPORTED


def facts(**changes):
    """A run that no line concerns."""
    usual = {
        "flash_attention": False,
        "stock_positions": {"qwen2_vl"},
        "model_types": {"qwen2_vl"},
        "videos": False,
    }
    return SimpleNamespace(**{**usual, "initialises_tokens_wrongly": False, **changes})


FA2 = {"flash_attention": True}
QWEN_2_5 = {"stock_positions": {"qwen2_5_vl"}, "model_types": {"qwen2_5_vl"}}
REFUSED = [
    ("5.6.0", FA2, "#45588.*Set `flash_attn: sdpa`.*pip install 'transformers==5.5.4'.*'transformers==5.8.0'"),
    ("5.3.0", QWEN_2_5, "#45325.*mcg_released"),
    ("5.4.0", QWEN_2_5, "#45325"),
    ("5.5.3", QWEN_2_5 | {"stock_positions": {"qwen2_vl", "qwen2_5_vl"}}, "#45325"),
    ("5.3.0", {"videos": True}, "#45381"),
    ("5.5.4", {"videos": True}, "same temporal position and the rows of frames are mixed up"),
    ("5.5.4", QWEN_2_5 | {"videos": True}, "#45381"),
]
ALLOWED = [
    ("5.6.0", {}),
    ("5.5.4", FA2),
    ("5.6.1", FA2),
    ("5.8.0", FA2),
    ("5.2.0", QWEN_2_5),
    ("5.5.4", QWEN_2_5),
    ("5.6.0", QWEN_2_5),
    ("5.4.0", {"stock_positions": set(), "model_types": {"qwen2_5_vl"}}),  # our own positions
    ("5.4.0", {"stock_positions": {"qwen3_vl"}, "model_types": {"qwen3_vl"}, "videos": True}),
    ("5.4.0", {}),
    ("5.2.0", {"videos": True}),
    ("5.6.0", {"videos": True}),
    ("5.8.0", {"videos": True}),
]
TOKENS = {"initialises_tokens_wrongly": True}
WARNED = [
    ("0.9.5", "5.6.0", TOKENS, "#10547.*main branch"),
    ("0.9.6.dev0", "5.8.0", TOKENS, "#10547"),
    ("0.9.5", "5.8.0", QWEN_2_5 | {"videos": True}, "#48669.*`video_fps` to 2 or 1"),
    ("0.9.5", "5.2.0", QWEN_2_5 | {"stock_positions": set(), "videos": True}, "#48669"),
]


def install(monkeypatch, llamafactory="0.9.5", transformers="5.6.0"):
    found = {"llamafactory": llamafactory, "transformers": transformers}
    monkeypatch.setattr(versions, "found_versions", lambda: found)


@pytest.mark.parametrize(("transformers", "changes", "message"), REFUSED)
def test_a_run_that_would_be_wrong_is_refused_with_the_way_out(monkeypatch, transformers, changes, message):
    install(monkeypatch, transformers=transformers)
    with pytest.raises(UnsupportedVersionError, match=f"^{transformers} is installed.*{message}"):
        check_known_problems(facts(**changes))


@pytest.mark.parametrize(("transformers", "changes"), ALLOWED)
def test_neighbours_are_not(monkeypatch, transformers, changes):
    install(monkeypatch, transformers=transformers)
    check_known_problems(facts(**changes))


@pytest.mark.parametrize(("llamafactory", "transformers", "changes", "message"), WARNED)
def test_a_warning_has_the_way_out_too(monkeypatch, caplog, llamafactory, transformers, changes, message):
    install(monkeypatch, llamafactory, transformers)
    with caplog.at_level(logging.WARNING, versions.logger.name):
        check_known_problems(facts(**changes))
    (record,) = caplog.records
    assert re.search(message, record.getMessage())


def test_a_later_llamafactory_and_a_run_without_videos_are_not_warned(monkeypatch, caplog):
    install(monkeypatch, "0.9.6", "5.8.0")
    check_known_problems(facts(**TOKENS, **QWEN_2_5))
    assert not caplog.records


def test_every_line_is_reached_by_a_case_above(monkeypatch):
    reached = set()
    cases = [("0.9.5", number, changes) for number, changes, _ in REFUSED] + [case[:3] for case in WARNED]
    for llamafactory, transformers, changes in cases:
        install(monkeypatch, llamafactory, transformers)
        reached |= {each for each in versions.known_problems() if each.concerns(facts(**changes))}
    assert reached == set(KNOWN_PROBLEMS)


def test_doctor_shows_the_lines_about_installed_versions(monkeypatch):
    install(monkeypatch, "0.9.6", "5.6.0")
    first, second = shown_by_doctor()
    assert first.state == second.state == "note"
    assert "fa2" in first.found and "sdpa" in first.fix and "Qwen2.5-VL" in second.found


def run_of(folder, model_type="qwen2_vl", *, teacher=None, videos=False, flash_attn="auto", tokens=None, **keys):
    """Facts of a recipe whose model is no more than its configuration."""
    (folder / "student").mkdir(parents=True, exist_ok=True)
    (folder / "student" / "config.json").write_text(json.dumps({"model_type": model_type}))
    columns = {"images": "images"} | ({"videos": "videos"} if videos else {})
    info = {"rows": {"file_name": "rows.json", "columns": columns}, "other": {"file_name": "other.json"}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for name in info:
        (folder / f"{name}.json").write_text("[{}]")
    model = SimpleNamespace(
        model_name_or_path=str(folder / "student"), adapter_name_or_path=None, cache_dir=None, model_revision="main",
        hf_hub_token=None, flash_attn=flash_attn, add_tokens=tokens, add_special_tokens=None,
    )  # fmt: skip
    finetuning = ClinkdArguments(use_clinkd=True, **keys)
    finetuning.ref_model, finetuning.ref_model_adapters = teacher, None
    data = SimpleNamespace(dataset=["other", "rows"], eval_dataset=None, dataset_dir=str(folder))
    return RunFacts(SimpleNamespace(model=model, data=data, finetuning=finetuning))


def test_facts_come_from_the_recipe(tmp_path):
    run = run_of(tmp_path, "qwen2_5_vl")
    assert run.model_types == {"qwen2_5_vl"} and run.stock_positions == set() and not run.videos
    assert run_of(tmp_path, "qwen2_5_vl", rope_variant="mrope").stock_positions == {"qwen2_5_vl"}
    assert run_of(tmp_path, "qwen2_5_vl", rope_variant="rope_mixed").stock_positions == {"qwen2_5_vl"}
    assert run_of(tmp_path, videos=True).videos
    misspelt = run_of(tmp_path)
    misspelt._arguments.data.dataset = ["row"]
    with pytest.raises(ValueError, match="`dataset: row`.*other, rows.*Did you mean `rows`"):
        misspelt.videos  # noqa: B018
    (tmp_path / "teacher").mkdir()
    Qwen2VLConfig().save_pretrained(tmp_path / "teacher")
    both = run_of(tmp_path, "qwen2_5_vl", teacher=str(tmp_path / "teacher"))
    assert both.model_types == {"qwen2_vl", "qwen2_5_vl"} and both.stock_positions == {"qwen2_vl"}
    write_rope_config(tmp_path / "teacher", {"variant": "mcg"})
    assert run_of(tmp_path, teacher=str(tmp_path / "teacher")).stock_positions == set()
    assert run_of(tmp_path, teacher=str(tmp_path / "nowhere")).model_types == {"qwen2_vl", ""}


def test_flash_attention_is_what_llamafactory_would_choose(tmp_path, monkeypatch):
    import transformers.utils

    chosen = {name: run_of(tmp_path, flash_attn=name).flash_attention for name in ("auto", "sdpa", "fa2", "fa3")}
    assert chosen == {"auto": False, "sdpa": False, "fa2": True, "fa3": True}
    assert not run_of(tmp_path, "gemma2").flash_attention
    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: True)
    assert run_of(tmp_path, "gemma2").flash_attention and not run_of(tmp_path, "qwen2_vl").flash_attention


def test_added_tokens_concern_a_llamafactory_that_does_not_locate_them(tmp_path, monkeypatch):
    from llamafactory.model.model_utils import embedding

    monkeypatch.setattr(embedding, "resize_embedding_layer", lambda model, tokenizer: None)
    assert run_of(tmp_path, tokens=["<lesion>"]).initialises_tokens_wrongly
    assert not run_of(tmp_path).initialises_tokens_wrongly
    monkeypatch.setattr(embedding, "resize_embedding_layer", lambda model, tokenizer, new_tokens=None: None)
    assert not run_of(tmp_path, tokens=["<lesion>"]).initialises_tokens_wrongly


@pytest.mark.parametrize("model_type", ["llava", "qwen2", "glm4v", "qwen3_omni_moe"])
def test_another_architecture_is_refused_by_name_before_the_first_phase(tmp_path, model_type):
    with pytest.raises(ValueError, match=f"`rope_variant: mcg` needs.*qwen3_vl.* is of the type {model_type}"):
        run_of(tmp_path, model_type).check_architecture()
    run_of(tmp_path, model_type, rope_variant="mrope").check_architecture()


@pytest.mark.parametrize("model_type", SUPPORTED.values())
def test_supported_architectures_pass(tmp_path, model_type):
    for variant in ("mcg", "mcg_released", "rope_2d", "rope_mixed"):
        run_of(tmp_path, model_type, rope_variant=variant).check_architecture()


def test_the_wheel_requires_what_is_supported():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).resolve().parents[2] / "setup.cfg")
    required = setup["options"]["install_requires"].splitlines()
    assert {f"{package}{bounds}" for package, (bounds, _) in versions.SUPPORTED.items()} <= set(required)
    supported = [line.rpartition(" ")[2] for line in setup["metadata"]["classifiers"].splitlines() if "3." in line]
    assert {python for python, *_ in COMBINATIONS} == set(supported)


def test_the_page_has_a_row_for_every_line():

    def number(pattern, text):
        found = re.search(pattern, text)
        return found and found[1]

    page = (Path(__file__).resolve().parents[2] / "docs" / "compatibility.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in page.splitlines() if row.count("|") == 6]
    shown = {(package, numbers, number(r"\[(\d+)\]", what), kind) for package, numbers, _, what, kind in rows[2:]}
    issue = {each: number(r"#(\d+)\)$", each.problem) for each in KNOWN_PROBLEMS}
    kinds = {True: "refused", False: "warned"}
    assert shown == {(each.package, each.versions, issue[each], kinds[each.refused]) for each in KNOWN_PROBLEMS}
