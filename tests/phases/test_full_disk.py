# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A full disk, as the operating system tells it: a limit on the size of files stands for it."""

import errno
import os
import re
import resource
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file
from small_run import llamafactory_cli, losses, recipe, write_recipe

from llamafactory_clinkd.phases.stopping import DiskFullError, disk_full, propagate_failure
from llamafactory_clinkd.utils.io import append_jsonl, read_json, read_jsonl, write_json
from llamafactory_clinkd.utils.ranks import Ranks


@contextmanager
def room_for(size):
    """Inside, this process cannot write a file beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x" * 50_000),
        lambda path: append_jsonl(path, [{"id": "x" * 50_000}]),
        lambda path: save_file({"a": torch.zeros(50_000)}, path),
        lambda path: torch.save(torch.zeros(50_000), path),
    ],
    ids=["open", "append_jsonl", "safetensors", "torch.save"],
)
def test_every_writer_s_error_is_recognised(tmp_path, write):
    message = "file.* could not be written: it is larger than .*MiB free.*raise the limit.*same command"
    ranks = Ranks()
    ranks.phase = "distill"
    ranks.set_location("training")
    with pytest.raises(DiskFullError, match=message) as found:
        with room_for(10_000), propagate_failure(ranks, tmp_path):
            write(tmp_path / "file")
    assert found.value.errno == errno.EFBIG and str(tmp_path / "file") in str(found.value)
    assert found.value.__notes__ == ["At phase distill, training."]


class SafetensorError(Exception):
    """Named as the one that Rust raises."""


@pytest.mark.parametrize(
    ("number", "reason", "fix"),
    [
        (errno.ENOSPC, "the disk is full", "make room"),
        (errno.EDQUOT, "the disk quota .* is used up", "raise the quota"),
        (errno.EFBIG, "larger than this process may write", "ulimit -f"),
    ],
)
@pytest.mark.parametrize("kind", ["named", "unnamed", "rust", "torch"])
def test_each_limit_is_named_with_its_file(tmp_path, monkeypatch, number, reason, fix, kind):
    path = tmp_path / "model.safetensors"

    def write(file):
        if kind == "named":
            raise OSError(number, os.strerror(number), str(file))
        if kind == "unnamed":
            raise OSError(number, os.strerror(number))
        if kind == "rust":
            raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

    def no_room_now(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", no_room_now)  # torch's error has no number: a small file shows the reason
    try:
        write(path)
    except Exception as error:
        found = disk_full(error, tmp_path)
    assert found.errno == number and str(path) in str(found)
    pattern = f"{path} could not be written: .*{reason}.*MiB free.*{fix}.*same command again"
    assert re.search(pattern, str(found)), str(found)


def test_a_limit_that_cannot_be_told_is_not_guessed(tmp_path):
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    assert "the disk is full, a quota is used up, or a limit" in str(disk_full(error, tmp_path))


def test_other_errors_stay_what_they_are(tmp_path):
    assert disk_full(ValueError("kd_alpha"), tmp_path) is None
    assert disk_full(FileNotFoundError(errno.ENOENT, "no such file"), tmp_path) is None
    error = ValueError("kd_alpha")
    with pytest.raises(ValueError) as found:
        with propagate_failure(Ranks(), tmp_path):
            raise error
    assert found.value is error


def no_room(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_state_keeps_its_last_content(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_json(path, {"phase": "distill"})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(OSError, match="No space left"):
            write_json(path, {"phase": "correct"})
    assert read_json(path) == {"phase": "distill"}
    assert [each.name for each in tmp_path.iterdir()] == ["state.json"]


def test_row_that_did_not_fit_is_dropped_and_written_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, [{"id": "a"}])
    with pytest.raises(OSError, match="File too large"), room_for(20):
        append_jsonl(path, [{"id": "b" * 30}])
    assert path.stat().st_size == 20 and read_jsonl(path) == [{"id": "a"}]
    append_jsonl(path, [{"id": "c"}])
    assert read_jsonl(path) == [{"id": "a"}, {"id": "c"}]


@pytest.mark.slow
def test_run_on_a_disk_that_fills_up(workspace, tmp_path):
    """The optimizer's file of a checkpoint does not fit: a clear error, and the same command goes on."""
    keys = {"clinkd_phases": "pseudo_label,distill", "per_device_train_batch_size": 1, "freeze_vision_tower": False}
    path = write_recipe(tmp_path / "r.yaml", recipe(workspace, tmp_path / "out", **keys))
    size = (workspace / "student" / "model.safetensors").stat().st_size
    full = llamafactory_cli("train", str(path), file_size=size + 100_000)
    assert full.returncode != 0
    assert (
        "DiskFullError" in full.stderr
        and "optimizer.pt could not be" in full.stderr
        and "start the same command again" in full.stderr
    )
    state = read_json(tmp_path / "out" / "clinkd" / "state.json")["phases"]
    assert (state["pseudo_label"]["status"], state["distill"]["status"]) == ("finished", "started")

    again = llamafactory_cli("train", str(path))
    assert again.returncode == 0, again.stderr[-2000:]
    assert "was not written to the end" in again.stderr + again.stdout
    whole = write_recipe(tmp_path / "w.yaml", recipe(workspace, tmp_path / "whole", **keys))
    assert llamafactory_cli("train", str(whole)).returncode == 0
    assert losses(tmp_path / "out") == losses(tmp_path / "whole")
