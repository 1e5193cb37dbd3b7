# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``kd_cache: hidden`` in the real recipe, against the same recipe without it."""

import gc
import json
import logging
import re
import shutil
import weakref
from types import SimpleNamespace

import pytest
from kd_runs import StopAt, distil, history, same_bits, weights
from safetensors import safe_open
from transformers import TrainerCallback

from llamafactory_clinkd.kd.teacher import Teacher
from llamafactory_clinkd.kd.teacher_cache import CacheMismatchError, HiddenCache
from llamafactory_clinkd.phases import distill
from llamafactory_clinkd.utils.ranks import Ranks


pytestmark = pytest.mark.usefixtures("one_thread")
ROWS = 8


@pytest.fixture
def counted(monkeypatch):
    """Number of times that a teacher was loaded and that its trunk ran."""
    counts = SimpleNamespace(loaded=0, runs=0)
    make, run = Teacher.__init__, Teacher.hidden

    def init(self, *args, **kwargs):
        counts.loaded += 1
        make(self, *args, **kwargs)

    def hidden(self, *args, **kwargs):
        counts.runs += 1
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Teacher, "__init__", init)
    monkeypatch.setattr(Teacher, "hidden", hidden)
    return counts


@pytest.mark.parametrize(
    "batches",
    [
        {"per_device_train_batch_size": 1},  # shuffled: the second epoch has another order
        {"per_device_train_batch_size": 2, "disable_shuffling": True},  # padded
    ],
    ids=["shuffled", "padded"],
)
def test_cached_is_live_to_the_last_digit(small_workspace, tmp_path, counted, batches):
    live = distil(small_workspace, tmp_path / "live", **batches)
    batches_an_epoch = ROWS // batches["per_device_train_batch_size"]
    assert (counted.loaded, counted.runs) == (1, 2 * batches_an_epoch)
    cached = distil(small_workspace, tmp_path / "cached", kd_cache="hidden", **batches)
    assert (counted.loaded, counted.runs) == (2, 3 * batches_an_epoch), "the trunk ran in the second epoch"
    assert len(history(live)) > 3 and set(history(live)[0]) >= {"loss", "ce", "kl"}
    assert history(cached) == history(live)
    assert same_bits(weights(cached), weights(live))


def test_the_trunk_is_freed_after_the_first_epoch(small_workspace, tmp_path, monkeypatch):
    teachers, make = [], Teacher.__init__

    def init(self, model, *args, **kwargs):
        teachers.append(weakref.ref(model))
        make(self, model, *args, **kwargs)

    class Alive(TrainerCallback):
        seen: list = []

        def on_epoch_begin(self, *args, **kwargs):
            gc.collect()
            self.seen.append([each() is not None for each in teachers])

    monkeypatch.setattr(Teacher, "__init__", init)
    distil(small_workspace, tmp_path, [Alive()], kd_cache="hidden")
    assert Alive.seen == [[True], [False]]


def test_only_rank_0_hashes_the_teacher(small_workspace, tmp_path, monkeypatch):
    """Another rank gets the hash from it."""
    hash_name = "the teacher's hash"
    monkeypatch.setattr(Ranks, "from_first", lambda self, compute, name: "sent" if name == hash_name else compute())
    monkeypatch.setattr(distill, "teacher_identity", lambda *args: pytest.fail("the teacher is hashed"))
    distil(small_workspace, tmp_path / "out", kd_cache="hidden", kd_epochs=1)
    with pytest.raises(CacheMismatchError, match="sent"):
        HiddenCache(tmp_path / "out" / "clinkd" / "teacher_cache", teacher="other", hidden_size=64)


def test_token_accuracy_costs_no_further_pass_of_the_teacher(small_workspace, tmp_path, counted):
    keys = {"eval_dataset": "tiny_test", "eval_strategy": "epoch", "compute_accuracy": True}
    keys |= {"per_device_eval_batch_size": 1}
    out = distil(small_workspace, tmp_path, kd_cache="hidden", kd_epochs=1, **keys)
    assert counted.runs == ROWS + 4  # as for the evaluation's loss alone
    logged = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert any("eval_accuracy" in entry for entry in logged)


def test_evaluation_rows_are_cached_too(small_workspace, tmp_path, counted):
    keys = {"eval_dataset": "tiny_test", "eval_strategy": "epoch", "per_device_eval_batch_size": 1}
    distil(small_workspace, tmp_path, kd_cache="hidden", kd_epochs=3, **keys)
    assert (counted.loaded, counted.runs) == (1, ROWS + 4)


@pytest.mark.slow
def test_a_killed_run_goes_on_without_the_trunk(small_workspace, tmp_path, counted, caplog):
    keys = {"kd_cache": "hidden", "save_strategy": "steps", "save_steps": 1}
    whole = distil(small_workspace, tmp_path / "whole", **keys)
    steps = len(history(whole))
    with pytest.raises(StopAt.Stopped):
        distil(small_workspace, tmp_path / "killed", [StopAt(steps - 2)], **keys)
    loaded, runs = counted.loaded, counted.runs
    with caplog.at_level(logging.INFO, "llamafactory_clinkd"):
        killed = distil(small_workspace, tmp_path / "killed", **keys)
    assert (counted.loaded, counted.runs) == (loaded, runs), "the teacher was loaded again"
    assert history(killed) == history(whole)
    assert same_bits(weights(killed), weights(whole))


@pytest.mark.slow
def test_a_kill_in_the_first_epoch_computes_the_rest(small_workspace, tmp_path, counted):
    keys = {"kd_cache": "hidden", "save_strategy": "steps", "save_steps": 1}
    whole = distil(small_workspace, tmp_path / "whole", **keys)
    counted.loaded = counted.runs = 0
    with pytest.raises(StopAt.Stopped):
        distil(small_workspace, tmp_path / "killed", [StopAt(1)], **keys)
    killed = distil(small_workspace, tmp_path / "killed", **keys)
    assert counted.loaded == 2 and counted.runs == ROWS, "a row before the checkpoint was computed again"
    assert history(killed) == history(whole)


def test_another_teacher_of_the_same_size_is_refused(small_workspace, tmp_path):
    shutil.copytree(small_workspace, tmp_path / "w")
    with pytest.raises(StopAt.Stopped):
        distil(tmp_path / "w", tmp_path / "out", [StopAt(2)], kd_cache="hidden", save_strategy="steps", save_steps=1)
    weights_file = tmp_path / "w" / "teacher" / "model.safetensors"
    changed = bytearray(weights_file.read_bytes())
    changed[-1] ^= 1
    weights_file.write_bytes(changed)
    with pytest.raises(ValueError, match="The recipe changed since .*: teacher was"):
        distil(tmp_path / "w", tmp_path / "out", kd_cache="hidden", save_strategy="steps", save_steps=1)
    (tmp_path / "out" / "clinkd" / "state.json").unlink()  # as if only the cache had been kept
    for checkpoint in (tmp_path / "out").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(CacheMismatchError, match="teacher@.*Use another cache folder"):
        distil(tmp_path / "w", tmp_path / "out", kd_cache="hidden", save_strategy="steps", save_steps=1)


def test_disk_need_is_logged_and_too_little_stops_the_start(small_workspace, tmp_path, monkeypatch, caplog, counted):
    monkeypatch.setattr(
        "llamafactory_clinkd.kd.teacher_cache.shutil.disk_usage", lambda path: SimpleNamespace(free=1000)
    )
    with caplog.at_level(logging.INFO, "llamafactory_clinkd"), pytest.raises(OSError, match="kd_cache: off"):
        distil(small_workspace, tmp_path, kd_cache="hidden")
    assert "supervised tokens of 8 samples" in caplog.text
    assert counted.loaded == 0


def test_the_estimate_is_what_the_run_writes(small_workspace, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "llamafactory_clinkd"):
        distil(small_workspace, tmp_path, kd_cache="hidden", kd_epochs=1)
    record = next(r for r in caplog.records if "supervised tokens" in r.getMessage())
    content, folder = record.args[:2]
    tokens, samples = map(int, re.findall(r"\d+", content))
    cache = HiddenCache(folder, teacher=_teacher_of(folder), hidden_size=128)
    assert samples == len(cache) == ROWS
    shards = [path for path in folder.glob("*.safetensors") if path.name != "head.safetensors"]
    assert sum(len(cache.get(key)) for path in shards for key in safe_open(path, framework="pt").keys()) == tokens


def _teacher_of(folder):
    with safe_open(folder / "head.safetensors", framework="pt") as file:
        return file.metadata()["teacher"]
