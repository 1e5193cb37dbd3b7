# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import copy
import json
import random
import re
import threading

import pytest
import torch
from datasets import Dataset

from llamafactory_clinkd.generation import UnfinishedError, generate_rows, plan_batches
from llamafactory_clinkd.utils.io import append_jsonl, read_json, read_jsonl

from .conftest import Collator, make_rows


BEAMS = {"gen_kwargs": {"max_new_tokens": 6}, "num_candidates": 3, "batch_size": 4}
SAMPLES = {"gen_kwargs": {"max_new_tokens": 6, "do_sample": True}, "num_candidates": 2, "batch_size": 4, "seed": 7}


@pytest.fixture
def data(tokenizer):
    return make_rows(tokenizer, 22)


class Killed(BaseException):
    """A kill: it is no Exception, so nothing may catch it."""


class CollatorWithEvents(Collator):
    """Notes the batches that it made and dies after some."""

    def __init__(self, die_after=None):
        super().__init__()
        self.sizes, self.die_after = [], die_after

    def __call__(self, features):
        if self.die_after is not None and len(self.sizes) >= self.die_after:
            raise Killed
        self.sizes.append(len(features))
        return super().__call__(features)


def read_bytes(path):
    return path.read_bytes()


def test_batches_are_of_like_length_and_cover_all():
    assert list(plan_batches([3, 9, 3, 5, 9], 2)) == [[1, 4], [3, 0], [2]]
    assert list(plan_batches([], 4)) == []
    with pytest.raises(ValueError, match="batch_size"):
        plan_batches([1], 0)


@pytest.mark.parametrize("settings", [BEAMS, SAMPLES])
def test_rows_come_in_the_datas_order_with_their_own_answers(model, tokenizer, data, tmp_path, settings):
    rows, ids = data
    got = generate_rows(model, tokenizer, rows, Collator(), ids, tmp_path / "out.jsonl", **settings)
    assert [row["id"] for row in got] == ids == [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")]
    assert {len(row["candidates"]) for row in got} == {settings["num_candidates"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.settings.json"]
    assert rows[0]["images"]  # the collator took them from a copy
    if settings is BEAMS:
        alone = generate_rows(model, tokenizer, rows[5:6], Collator(), ids[5:6], tmp_path / "alone.jsonl", **settings)
        assert [c["text"] for c in alone[0]["candidates"]] == [c["text"] for c in got[5]["candidates"]]


def test_a_datasets_dataset(model, tokenizer, data, tmp_path):
    rows, ids = data
    lists = generate_rows(model, tokenizer, rows[:6], Collator(), ids[:6], tmp_path / "a.jsonl", **BEAMS)
    arrow = Dataset.from_list(rows[:6])
    assert generate_rows(model, tokenizer, arrow, Collator(), ids[:6], tmp_path / "b.jsonl", **BEAMS) == lists


@pytest.mark.parametrize("settings", [BEAMS, SAMPLES])
@pytest.mark.parametrize("torn", ["", '{"id": "row-', '{"id": "row-03", "candidates": [], "tokens": 3}'])
def test_killed_and_resumed_gives_the_same_file(model, tokenizer, data, tmp_path, settings, torn):
    rows, ids = data
    whole = tmp_path / "whole.jsonl"
    generate_rows(model, tokenizer, rows, Collator(), ids, whole, **settings)

    out = tmp_path / "out.jsonl"
    with pytest.raises(Killed):
        generate_rows(model, tokenizer, rows, CollatorWithEvents(die_after=2), ids, out, **settings)
    part = tmp_path / "out.jsonl.rank0"
    assert len(read_jsonl(part)) == 8 and not out.exists()
    lines = part.read_text().splitlines(keepends=True)
    part.write_text("".join(lines[:-2]) + torn)  # the batch is on disk in part, its next line torn
    collate = CollatorWithEvents()
    generate_rows(model, tokenizer, rows, collate, ids, out, **settings)
    assert read_bytes(out) == read_bytes(whole)
    assert collate.sizes == [4, 4, 4, 4, 2]  # the first batch is done, the second is made again as a whole

    collate = CollatorWithEvents()
    again = generate_rows(model, tokenizer, rows, collate, ids, out, **settings)
    assert collate.sizes == [] and again == read_jsonl(whole)


def run_ranks(model, tokenizer, rows, ids, out, num_processes, settings, collates=None):
    """Every rank in a thread with its own model; returns what each rank got."""
    barrier, results = threading.Barrier(num_processes, timeout=60), [None] * num_processes

    def rank(index, own_model):
        results[index] = generate_rows(
            own_model,
            tokenizer,
            rows,
            collates[index] if collates else Collator(),
            ids,
            out,
            process_index=index,
            num_processes=num_processes,
            barrier=barrier.wait,
            **settings,
        )

    threads = [threading.Thread(target=rank, args=(i, copy.deepcopy(model))) for i in range(num_processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_ranks_share_the_work_and_all_get_all_rows(model, tokenizer, data, tmp_path):
    rows, ids = data
    whole = generate_rows(model, tokenizer, rows, Collator(), ids, tmp_path / "whole.jsonl", **BEAMS)
    collates = [CollatorWithEvents() for _ in range(3)]
    results = run_ranks(model, tokenizer, rows, ids, tmp_path / "out.jsonl", 3, BEAMS, collates)
    assert results == [whole] * 3
    assert [len(collate.sizes) for collate in collates] == [2, 2, 2]
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl", "out.jsonl.settings.json"]


@pytest.mark.parametrize("settings", [BEAMS, SAMPLES])
def test_the_number_of_ranks_may_change(model, tokenizer, data, tmp_path, settings):
    """Parts of three ranks, resumed by one; the samples are seeded by batch, so they are the same too."""
    rows, ids = data
    whole = generate_rows(model, tokenizer, rows, Collator(), ids, tmp_path / "whole.jsonl", **settings)
    out = tmp_path / "out.jsonl"
    batches = list(plan_batches([len(row["input_ids"]) for row in rows], settings["batch_size"]))
    for i, batch in enumerate(batches[:4]):
        append_jsonl(f"{out}.rank{i % 3}", [whole[j] for j in batch])
    collate = CollatorWithEvents()
    assert generate_rows(model, tokenizer, rows, collate, ids, out, **settings) == whole
    assert collate.sizes == [4, 2]
    assert read_bytes(out) == read_bytes(tmp_path / "whole.jsonl")
    assert not list(tmp_path.glob("out.jsonl.rank*"))


@pytest.mark.parametrize("settings", [BEAMS, SAMPLES])
def test_a_stop_request_keeps_the_rows_and_the_next_run_continues(model, tokenizer, data, tmp_path, settings):
    rows, ids = data
    out, collator = tmp_path / "out.jsonl", CollatorWithEvents()
    stop = {"should_stop": lambda: len(collator.sizes) >= 2}
    with pytest.raises(UnfinishedError, match="is not complete"):
        generate_rows(model, tokenizer, rows, collator, ids, out, **settings, **stop)
    kept = read_jsonl(tmp_path / "out.jsonl.rank0")
    assert len(kept) == 8 and not out.exists()
    rest = CollatorWithEvents()
    got = generate_rows(model, tokenizer, rows, rest, ids, out, **settings)
    assert len(rest.sizes) == 4 and [row for row in got if row["id"] in {each["id"] for each in kept}]
    whole = generate_rows(model, tokenizer, rows, Collator(), ids, tmp_path / "whole.jsonl", **settings)
    assert got == whole


def test_a_stop_request_on_one_rank_stops_the_run_for_all(model, tokenizer, data, tmp_path):
    rows, ids = data
    barrier, errors = threading.Barrier(2), [None, None]

    def run(rank):
        try:
            generate_rows(
                copy.deepcopy(model), tokenizer, rows, Collator(), ids, tmp_path / "out.jsonl", process_index=rank,
                num_processes=2, barrier=barrier.wait, should_stop=lambda: rank == 1, **BEAMS,
            )  # fmt: skip
        except UnfinishedError as error:
            errors[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(errors) and len(read_jsonl(tmp_path / "out.jsonl.rank0")) == 12


def test_a_bad_row_loses_no_other_and_is_tried_again(model, tokenizer, data, tmp_path, caplog):
    rows, ids = data
    whole = generate_rows(model, tokenizer, rows, Collator(), ids, tmp_path / "whole.jsonl", **BEAMS)
    bad = [dict(row) for row in rows]
    bad[4]["images"] = ["broken"]
    bad[9]["input_ids"] = bad[9]["input_ids"][3:]  # cut in the middle of its image: only the model notices
    bad[9]["attention_mask"] = bad[9]["attention_mask"][3:]
    out = tmp_path / "out.jsonl"
    got = generate_rows(model, tokenizer, bad, Collator(), ids, out, **BEAMS)
    assert got[4] == {
        "id": ids[4],
        "candidates": [],
        "tokens": 0,
        "error": "OSError: cannot identify image file",
    }
    assert got[9]["candidates"] == []
    assert re.search("shape mismatch|features and image tokens do not match|split_with_sizes", got[9]["error"])
    assert "row-04" in caplog.text and "row-09" in caplog.text
    for i in set(range(22)) - {4, 9}:
        assert [c["text"] for c in got[i]["candidates"]] == [c["text"] for c in whole[i]["candidates"]]

    collate = CollatorWithEvents()
    fixed = generate_rows(model, tokenizer, rows, collate, ids, out, **BEAMS)
    assert [row["id"] for row in fixed] == ids and not any("error" in row for row in fixed)
    assert len(collate.sizes) <= 2  # only the batches of the two rows


def test_a_broken_set_up_is_no_row_by_row_error(model, tokenizer, data, tmp_path):
    rows, ids = data
    rows = [{**row, "images": ["broken"]} for row in rows]
    with pytest.raises(RuntimeError, match="first 16 rows all failed.*cannot identify"):
        generate_rows(model, tokenizer, rows, Collator(), ids, tmp_path / "out.jsonl", **BEAMS)


def test_training_is_not_disturbed(model, tokenizer, data, tmp_path):
    """A training step gives the same loss with and without a generation before it."""
    rows, ids = data
    batch = Collator()([dict(row) for row in rows[:4]])
    model.model.language_model.config.attention_dropout = 0.5
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5

    def loss():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
        inputs["position_ids"] = torch.arange(batch["input_ids"].size(1)).expand(3, 4, -1)
        loss = model(**inputs, labels=batch["input_ids"]).loss
        loss.backward()
        return loss.item(), random.random()

    losses = []
    for generate in (False, True):
        model.zero_grad()
        model.train()
        torch.manual_seed(0)
        random.seed(0)
        if generate:
            generate_rows(model, tokenizer, rows, Collator(), ids, tmp_path / "out.jsonl", **SAMPLES)
        losses.append(loss())
    assert losses[0] == losses[1]


def test_other_settings_or_other_data_are_refused(model, tokenizer, data, tmp_path):
    rows, ids = data
    out = tmp_path / "out.jsonl"
    generate_rows(model, tokenizer, rows[:4], Collator(), ids[:4], out, **BEAMS)
    with pytest.raises(ValueError, match="num_return_sequences: was 3, now 2"):
        generate_rows(model, tokenizer, rows[:4], Collator(), ids[:4], out, **{**BEAMS, "num_candidates": 2})
    with pytest.raises(ValueError, match="rows that are not in this data, for example 'row-00'"):
        generate_rows(model, tokenizer, rows[1:4], Collator(), ids[1:4], out, **BEAMS)
    more = generate_rows(model, tokenizer, rows[:6], Collator(), ids[:6], out, **BEAMS)  # the same rows and more
    assert len(more) == 6

    with pytest.raises(ValueError, match="weights: was None, now b"):
        generate_rows(model, tokenizer, rows[:6], Collator(), ids[:6], out, identity={"weights": "b"}, **BEAMS)

    out.unlink()
    generate_rows(model, tokenizer, rows[:4], Collator(), ids[:4], out, **{**BEAMS, "num_candidates": 2})
    assert read_json(f"{out}.settings.json")["num_return_sequences"] == 2


def test_wrong_arguments(model, tokenizer, data, tmp_path):
    rows, ids = data
    out = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="21 ids for 22 rows"):
        generate_rows(model, tokenizer, rows, Collator(), ids[1:], out, **BEAMS)
    with pytest.raises(ValueError, match="unique: 1 "):
        generate_rows(model, tokenizer, rows, Collator(), [*ids[:-1], ids[0]], out, **BEAMS)
    with pytest.raises(ValueError, match="2 ranks need a `barrier`"):
        generate_rows(model, tokenizer, rows, Collator(), ids, out, num_processes=2, **BEAMS)
    with pytest.raises(ValueError, match="padding_side"):
        generate_rows(model, tokenizer, rows, Collator("right"), ids, out, **BEAMS)
    assert not out.exists()


def test_progress_only_on_rank_0(model, tokenizer, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llamafactory_clinkd.utils.console.SECONDS_BETWEEN_LINES", 0)
    rows, ids = data
    out = tmp_path / "out.jsonl"
    generate_rows(model, tokenizer, rows[:5], Collator(), ids[:5], out, progress="Record round 1", **BEAMS)
    shown = capsys.readouterr().out
    assert "Record round 1" in shown and "5/5" in shown
    generate_rows(model, tokenizer, rows[:5], Collator(), ids[:5], tmp_path / "quiet.jsonl", **BEAMS)
    assert capsys.readouterr().out == ""


def test_an_empty_data_set(model, tokenizer, tmp_path):
    assert generate_rows(model, tokenizer, [], Collator(), [], tmp_path / "out.jsonl", **BEAMS) == []
    assert (tmp_path / "out.jsonl").read_text() == ""


def test_the_rows_are_json(model, tokenizer, data, tmp_path):
    rows, ids = data
    generate_rows(model, tokenizer, rows, Collator(), ids, tmp_path / "out.jsonl", **SAMPLES)
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert all(c["logprob"] < 0 for c in row["candidates"])
