# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Two real processes that must call the model together, as under ZeRO-3 and FSDP."""

import functools

import pytest
import torch
import torch.multiprocessing as multiprocessing

from llamafactory_clinkd.generation import generate_rows
from llamafactory_clinkd.utils.io import read_jsonl

from .conftest import Collator, build_model, make_rows


SETTINGS = {"gen_kwargs": {"max_new_tokens": 5}, "num_candidates": 2, "batch_size": 3}


def run_rank(rank, address, tokenizer, rows, ids, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    model = build_model(tokenizer)
    calls = []
    forward = model.forward
    model.forward = functools.wraps(forward)(lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs))
    got = generate_rows(
        model, tokenizer, rows, Collator(), ids, out, process_index=rank, num_processes=2, synced_gpus=True, **SETTINGS
    )
    assert [row["id"] for row in got] == ids
    counts = torch.tensor([len(calls), -len(calls)])
    torch.distributed.all_reduce(counts, op=torch.distributed.ReduceOp.MAX)
    assert counts[0] == -counts[1], "the ranks ran the model a different number of times: ZeRO-3 would wait for ever"
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_ranks_stay_in_step_with_uneven_work_and_a_bad_row(tokenizer, tmp_path):
    rows, ids = make_rows(tokenizer, 14)  # five batches: three for one rank, two for the other
    rows[6]["images"] = ["broken"]
    out = tmp_path / "out.jsonl"
    multiprocessing.spawn(run_rank, (tmp_path / "rendezvous", tokenizer, rows, ids, out), nprocs=2)

    alone = generate_rows(
        build_model(tokenizer), tokenizer, rows, Collator(), ids, tmp_path / "alone.jsonl", **SETTINGS
    )
    for one, other in zip(read_jsonl(out), alone, strict=True):
        assert one.get("error") == other.get("error")
        assert [c["text"] for c in one["candidates"]] == [c["text"] for c in other["candidates"]]
    assert sum("error" in row for row in alone) == 1
