# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``kd_teacher_base_url`` in real recipes, against the same recipes with the teacher in the process."""

import json
import logging

import pytest
from kd_runs import StopAt, distil, history, same_bits, weights
from score_server import ScoreServer
from small_run import llamafactory_cli, recipe, write_recipe


pytest.importorskip("openai", reason="the openai client is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")
ROWS = 8
LIVE = {"kd_temperature": 1, "rope_variant": "mrope"}
SERVED = LIVE | {"ref_model": None}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Two requests for a row, without pauses."""
    from llamafactory_clinkd.phases import served

    stock = served._client

    def client(url, key):
        return lambda *args, **kwargs: stock(url, key)(*args, **kwargs, backoff=0.001, max_attempts=2)

    monkeypatch.setattr(served, "_client", client)


def test_all_ids_give_the_live_teacher_s_run(small_workspace, tmp_path):
    keys = {"eval_dataset": "tiny_test", "eval_strategy": "epoch", "per_device_train_batch_size": 2}
    live = distil(small_workspace, tmp_path / "live", **LIVE, **keys)
    with ScoreServer(small_workspace / "teacher", max_logprobs=10**6) as server:
        keys |= {"kd_teacher_base_url": server.url, "kd_teacher_top_k": server.vocabulary}
        found = distil(small_workspace, tmp_path / "served", **SERVED, **keys)
    assert len(server.rows) == ROWS + 4
    for ours, theirs in zip(history(found), history(live), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    logged = [json.loads((each / "trainer_state.json").read_text())["log_history"] for each in (found, live)]
    ours, theirs = ([entry["eval_loss"] for entry in each if "eval_loss" in entry] for each in logged)
    assert ours == pytest.approx(theirs, abs=1e-5) and len(ours) == 2


def test_a_killed_run_continues_without_the_server(small_workspace, tmp_path, caplog):
    keys = SERVED | {"save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "constant"}
    with ScoreServer(small_workspace / "teacher") as server:
        keys["kd_teacher_base_url"] = server.url
        whole = distil(small_workspace, tmp_path / "whole", **keys)
        server.fault = lambda number, attempt: "503" if number == 5 else None
        with pytest.raises(RuntimeError, match="1 of 8 rows have no scores: 1 with http_503"):
            distil(small_workspace, tmp_path / "killed", **keys)
        server.fault = lambda number, attempt: None
        server.asked.clear()
        with pytest.raises(StopAt.Stopped):
            distil(small_workspace, tmp_path / "killed", [StopAt(3)], **keys)
        assert server.asked.count(5) >= 1 and len(server.asked) < ROWS + 4, "rows are scored again"
    with caplog.at_level(logging.INFO, "llamafactory_clinkd"):
        killed = distil(small_workspace, tmp_path / "killed", **keys)
    assert "the teacher's server is not used" in caplog.text
    assert history(killed) == history(whole) and same_bits(weights(killed), weights(whole))


def test_on_policy_is_the_live_teacher_s_run_and_continues(small_workspace, tmp_path):
    keys = {"kd_on_policy": 0.5, "kd_divergence": "jsd", "kd_rollout_every": 2, "max_new_tokens": 6}
    keys |= {"save_strategy": "steps", "save_steps": 1, "kd_epochs": 1}
    live = distil(small_workspace, tmp_path / "live", **LIVE, **keys)
    with ScoreServer(small_workspace / "teacher", max_logprobs=10**6) as server:
        keys |= {"kd_teacher_base_url": server.url, "kd_teacher_top_k": server.vocabulary}
        server.fault = lambda number, attempt: "503" if number > ROWS + 1 else None  # in a later round
        with pytest.raises(RuntimeError, match="sampled answers have no scores|scored before"):
            distil(small_workspace, tmp_path / "served", **SERVED, **keys)
        server.fault = lambda number, attempt: None
        found = distil(small_workspace, tmp_path / "served", **SERVED, **keys)
    assert len(server.rows) > ROWS
    parts = ("loss", "ce", "kl_on_policy", "kl_off_policy")
    assert sum(entry["kl_on_policy"] > 0 for entry in history(found, parts)) > 0
    for ours, theirs in zip(history(found, parts), history(live, parts), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
def test_from_the_command_line_with_the_default_number_of_ids(small_workspace, tmp_path):
    with ScoreServer(small_workspace / "teacher") as server:
        keys = recipe(small_workspace, tmp_path / "out", **SERVED, kd_teacher_base_url=server.url, use_cpu=True)
        done = llamafactory_cli("train", str(write_recipe(tmp_path / "recipe.yaml", keys)))
        assert done.returncode == 0, done.stdout + done.stderr
        more = keys | {"kd_teacher_top_k": 30, "output_dir": str(tmp_path / "more")}
        refused = llamafactory_cli("train", str(write_recipe(tmp_path / "more.yaml", more)))
    assert refused.returncode != 0 and "--max-logprobs 30" in refused.stdout + refused.stderr
    entry = history(tmp_path / "out")[0]
    assert entry["kl"] > 0 and entry["loss"] == pytest.approx((entry["ce"] + 0.5 * entry["kl"]) / 1.5, rel=1e-4)


def test_another_vocabulary_and_packing_are_refused_before_the_first_phase(small_workspace, tmp_path):
    with ScoreServer(small_workspace / "teacher") as server:
        keys = SERVED | {"kd_teacher_base_url": server.url}
        with pytest.raises(ValueError, match="`packing: true` joins rows"):
            distil(small_workspace, tmp_path / "out", packing=True, **keys)
        server.processor.tokenizer.decode = lambda ids: "other"
        with pytest.raises(ValueError, match="do not read the same tokens"):
            distil(small_workspace, tmp_path / "out", **keys)
    assert server.asked == []
