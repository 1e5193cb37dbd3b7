# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from llamafactory_clinkd.kd.loss import distill_loss
from llamafactory_clinkd.kd.teacher_cache import CacheMismatchError, HiddenCache, estimate_bytes, require_space


def open_cache(folder, **changes):
    return HiddenCache(folder, **{"teacher": "qwen@1", "hidden_size": 8, "dtype": torch.bfloat16, **changes})


def states(seed, rows=5, width=8, dtype=torch.bfloat16):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_states_come_back_bit_for_bit(tmp_path, dtype):
    cache = open_cache(tmp_path, dtype=dtype)
    odd = states(0, dtype=dtype)
    odd[0, :3] = torch.tensor([float("nan"), -0.0, torch.finfo(dtype).tiny / 2])
    cache.put("a" * 64, odd)
    cache.put("b" * 64, torch.empty(0, 8, dtype=dtype))
    before = cache.get("a" * 64)
    cache.flush()
    again = open_cache(tmp_path, dtype=dtype)
    for value in (before, cache.get("a" * 64), again.get("a" * 64)):
        assert value.dtype == dtype
        assert torch.equal(value.view(torch.uint8), odd.view(torch.uint8))
    assert again.get("b" * 64).shape == (0, 8)
    assert len(again) == 2 and "a" * 64 in again and "c" * 64 not in again
    assert again.get("c" * 64) is None


def test_a_cached_loss_equals_the_live_one_to_the_last_digit(tmp_path):
    hidden, teacher, head = states(0, dtype=torch.float32), states(1, dtype=torch.float32), states(2, 20)
    labels = torch.tensor([1, -100, 5, 19, 0])
    supervised = labels != -100
    cache = open_cache(tmp_path, dtype=torch.float32)
    cache.put("k", teacher[supervised])
    cache.flush()
    back = torch.zeros_like(teacher)
    back[supervised] = open_cache(tmp_path, dtype=torch.float32).get("k")
    options = {"alpha": 0.5, "temperature": 0.5}
    live = distill_loss(hidden, head.float(), teacher, head.float(), labels, **options)
    cached = distill_loss(hidden, head.float(), back, head.float(), labels, **options)
    assert [x.item() for x in live] == [x.item() for x in cached]


def test_a_view_of_a_batch_is_copied(tmp_path):
    cache, batch = open_cache(tmp_path), states(0, 6)
    cache.put("x", batch[:2])
    cache.put("y", batch[2:])
    wanted = batch.clone()
    batch.zero_()
    cache.flush()
    assert torch.equal(torch.cat([cache.get("x"), cache.get("y")]), wanted)


def test_what_get_returns_may_be_written_to(tmp_path):
    cache = open_cache(tmp_path)
    cache.put("a", states(0))
    for _ in range(2):  # from memory, then from the shard
        cache.get("a").zero_()
        assert torch.equal(cache.get("a"), states(0))
        cache.flush()


def test_shards_are_written_when_enough_waits_and_a_known_key_is_kept(tmp_path):
    cache = open_cache(tmp_path, shard_bytes=2 * states(0).nbytes)
    for i in range(5):
        cache.put(f"k{i}", states(i))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    cache.put("k0", states(99))
    cache.put("k4", states(99))
    cache.flush()
    assert cache.flush() is None
    again = open_cache(tmp_path)
    assert all(torch.equal(again.get(f"k{i}"), states(i)) for i in range(5))


def test_ranks_write_their_own_shards_and_see_each_other_after_refresh(tmp_path):
    ranks = [open_cache(tmp_path, rank=rank) for rank in range(3)]
    for rank, cache in enumerate(ranks):
        cache.put(f"of-{rank}", states(rank))
        cache.put("of-all", states(7))
        cache.flush()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"hidden-rank{r:05d}-000000.safetensors" for r in range(3)]
    assert "of-2" not in ranks[0]
    ranks[0].refresh()
    assert torch.equal(ranks[0].get("of-2"), states(2))
    resumed_with_one_rank = open_cache(tmp_path)
    assert len(resumed_with_one_rank) == 4
    resumed_with_one_rank.put("new", states(8))
    assert resumed_with_one_rank.flush().name == "hidden-rank00000-000001.safetensors"


def test_a_kill_before_the_flush_loses_only_what_waited(tmp_path):
    program = (
        "import os, signal, sys, torch\n"
        "from llamafactory_clinkd.kd.teacher_cache import HiddenCache\n"
        "c = HiddenCache(sys.argv[1], teacher='qwen@1', hidden_size=8, dtype=torch.bfloat16)\n"
        "c.put('safe', torch.ones(2, 8, dtype=torch.bfloat16)); c.flush()\n"
        "c.put('lost', torch.ones(2, 8, dtype=torch.bfloat16)); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    cache = open_cache(tmp_path)
    assert "safe" in cache and "lost" not in cache


def test_a_half_written_shard_is_never_read(tmp_path):
    whole = open_cache(tmp_path)
    whole.put("a", states(0))
    shard = whole.flush()
    (tmp_path / ".hidden-rank00000-000001.safetensors.tmp").write_bytes(shard.read_bytes()[:100])
    (tmp_path / ".hidden-rank00003-000000.safetensors.tmp").write_bytes(b"another rank, still writing")
    cache = open_cache(tmp_path)
    assert len(cache) == 1 and not cache.broken
    assert [p.name for p in tmp_path.glob(".*")] == [".hidden-rank00003-000000.safetensors.tmp"]


@pytest.mark.parametrize("keep", [0, 5, 60, -4])
def test_a_damaged_shard_is_named_skipped_and_not_overwritten(tmp_path, caplog, keep):
    cache = open_cache(tmp_path)
    for i in range(2):
        cache.put(f"k{i}", states(i))
        shard = cache.flush()
    shard.write_bytes(shard.read_bytes()[:keep])
    resumed = open_cache(tmp_path)
    assert resumed.broken == {shard}
    assert shard.name in caplog.text
    assert "k0" in resumed and "k1" not in resumed
    resumed.put("k1", states(1))
    assert resumed.flush().name == "hidden-rank00000-000002.safetensors"
    assert torch.equal(open_cache(tmp_path).get("k1"), states(1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"teacher": "qwen@2"}, '"teacher": "qwen@1"'),
        ({"hidden_size": 16}, '"hidden_size": "8"'),
        ({"dtype": torch.float32}, '"dtype": "bfloat16"'),
    ],
)
def test_shards_of_another_run_are_refused(tmp_path, change, named):
    cache = open_cache(tmp_path)
    cache.put("a", states(0))
    cache.flush()
    with pytest.raises(CacheMismatchError, match=named):
        open_cache(tmp_path, **change)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_files_and_other_versions_are_refused(tmp_path, metadata):
    save_file({"model.weight": torch.zeros(2)}, tmp_path / "model.safetensors", metadata=metadata)
    with pytest.raises(CacheMismatchError, match="model.safetensors.*Use another cache folder"):
        open_cache(tmp_path)


def test_another_format_version_is_refused(tmp_path):
    cache = open_cache(tmp_path)
    cache.put("a", states(0))
    path = cache.flush()
    save_file(load_file(path), path, metadata={**cache._metadata, "version": "0"})
    with pytest.raises(CacheMismatchError, match='"version": "0"'):
        open_cache(tmp_path)


@pytest.mark.parametrize("bad", [torch.zeros(2, 7).bfloat16(), torch.zeros(8).bfloat16(), torch.zeros(2, 8)])
def test_states_that_do_not_fit_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match=r"expected \[n, 8\] torch.bfloat16"):
        open_cache(tmp_path).put("a", bad)


def test_the_dtype_of_the_first_states_is_taken(tmp_path):
    cache = open_cache(tmp_path, dtype=None)
    assert cache.dtype is None
    cache.put("a", states(0))
    cache.flush()
    again = open_cache(tmp_path, dtype=None)
    assert again.dtype == torch.bfloat16 and torch.equal(again.get("a"), states(0))
    with pytest.raises(ValueError, match="expected .* torch.bfloat16"):
        again.put("b", states(0).float())


@pytest.mark.parametrize("bias", [None, torch.arange(20.0)])
def test_the_head_lies_beside_the_states(tmp_path, bias):
    cache = open_cache(tmp_path, dtype=None)
    assert not cache.has_head()
    weight = states(3, 20)
    cache.save_head(weight, bias)
    cache.put("a", states(0))
    cache.flush()
    again = open_cache(tmp_path, dtype=None)
    assert again.has_head() and len(again) == 1
    found = again.load_head()
    assert torch.equal(found[0], weight) and found[0].dtype == weight.dtype
    assert found[1] is None if bias is None else torch.equal(found[1], bias)
    (tmp_path / "hidden-rank00000-000000.safetensors").unlink()
    with pytest.raises(CacheMismatchError, match="qwen@2"):
        open_cache(tmp_path, teacher="qwen@2").load_head()


def test_the_estimate_holds_for_what_is_written(tmp_path):
    cache = open_cache(tmp_path, hidden_size=256)
    for i in range(40):
        cache.put(f"{i:064d}", states(i, rows=10, width=256))
    written = cache.flush().stat().st_size
    wanted = estimate_bytes(400, 256, torch.bfloat16, samples=40)
    assert wanted * 0.97 < written <= wanted
    assert estimate_bytes(1, 3584, torch.bfloat16) == 7168


def test_too_little_disk_stops_the_start(tmp_path):
    require_space(tmp_path / "new", 1, "The cache", "set kd_cache: off")
    with pytest.raises(OSError, match="The scores: 1048576.0 GiB are needed, but .* or lower kd_teacher_top_k"):
        require_space(tmp_path, 2**50, "The scores", "lower kd_teacher_top_k")


def test_shards_that_exist_need_no_space(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with (tmp_path / "some.safetensors").open("wb") as shard:
        shard.truncate(2 * free)  # sparse: it takes no space
    require_space(tmp_path, 2 * free, "The cache", "set kd_cache: off")
