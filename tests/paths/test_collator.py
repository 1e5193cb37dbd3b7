# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Every kind of input through stock LLaMA-Factory's own processors and collator, against the paper's equations."""

import inspect
import itertools
from types import SimpleNamespace

import pytest
import torch
from rope.layouts import Segment, mcg_reference, released_reference, rope_2d_reference

from llamafactory_clinkd.rope import apply_rope, remove_rope

from .runs import collator_of, infer_keys, noise_image


REFERENCES = {
    "mcg": mcg_reference,
    "mcg_released": lambda segments: released_reference(segments, gap=2),
    "rope_2d": rope_2d_reference,
}


@pytest.fixture(scope="module")
def engine(sharp_workspace):
    """Stock's chat engine around the untrained student: its template, tokenizer, processor and model."""
    from llamafactory.chat.hf_engine import HuggingfaceEngine
    from llamafactory.hparams import get_infer_args

    return HuggingfaceEngine(*get_infer_args(infer_keys(sharp_workspace / "student")))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    sizes = {"wide": (140, 84), "tall": (56, 168), "small": (56, 56)}
    return {name: str(noise_image(folder / f"{name}.png", *size)) for name, size in sizes.items()}


@pytest.fixture(params=sorted(REFERENCES))
def bound(request, engine):
    """The engine, its model bound to a variant for one test; and the variant's reference."""
    apply_rope(engine.model, request.param)
    yield SimpleNamespace(engine=engine, reference=REFERENCES[request.param], variant=request.param)
    remove_rope(engine.model)
    engine.tokenizer.padding_side = "left"


def rows_of(engine, questions, *, packed=False, **data):
    """Rows as stock's dataset processors tokenise them; ``questions`` are (text with <image>, paths)."""
    from llamafactory.data.processor.supervised import PackedSupervisedDatasetProcessor, SupervisedDatasetProcessor
    from llamafactory.hparams import DataArguments

    kind = PackedSupervisedDatasetProcessor if packed else SupervisedDatasetProcessor
    arguments = DataArguments(template="qwen2_vl", dataset="any", packing=packed, neat_packing=packed, **data)
    empty = [None] * len(questions)
    columns = kind(engine.template, engine.tokenizer, engine.processor, arguments).preprocess_dataset(
        {
            "_prompt": [[{"role": "user", "content": text}] for text, _ in questions],
            "_response": [[{"role": "assistant", "content": "There."}] for _ in questions],
            "_system": [""] * len(questions),
            "_tools": [""] * len(questions),
            "_images": [paths or None for _, paths in questions],
            "_videos": empty,
            "_audios": empty,
        }
    )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def segments_of(ids, grids, image_token):
    """The row as segments of text and images; ``grids`` (patches) are consumed in order."""
    segments, index = [], 0
    while index < len(ids):
        if ids[index] == image_token:
            t, h, w = next(grids)
            segments.append(Segment(1, (t, h // 2, w // 2)))
        else:
            run = next((i for i in range(index, len(ids)) if ids[i] == image_token), len(ids)) - index
            segments.append(Segment(0, (run,)))
        index += segments[-1].tokens
    return segments


def check_positions(bound, batch, mask, lengths=None):
    """Compares the unmasked positions of each row, or of its sub-sequences (``lengths``), with the reference."""
    image_token = bound.engine.model.config.image_token_id
    grids = iter(batch["image_grid_thw"].tolist())
    assert batch["position_ids"].dtype == torch.int64 and batch["position_ids"].shape[0] == 4
    for row, keep in enumerate(mask.bool()):
        ids, found = batch["input_ids"][row][keep].tolist(), batch["position_ids"][:, row][:, keep]
        expected = []
        for size in lengths or [len(ids)]:
            part, ids = ids[:size], ids[size:]
            positions, _ = bound.reference(segments_of(part, grids, image_token))
            expected += positions
        assert not ids
        assert torch.equal(found[1:], torch.tensor(expected).T - 1)
        assert torch.equal(found[0], found[1])


INPUTS = {
    "an image first": [("<image>Where is it?", ["wide"])],
    "an image last": [("Where is it?<image>", ["tall"])],
    "adjacent images": [("<image><image>Which?<image>", ["wide", "small", "tall"])],
    "unequal rows, one of text only": [
        ("<image>Where?", ["wide"]),
        ("What is a CT?", []),
        ("First <image> then <image>, and what changed between the two?", ["small", "tall"]),
    ],
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", sorted(INPUTS))
def test_positions_of_a_batch(bound, pictures, name, side):
    questions = [(text, [pictures[picture] for picture in names]) for text, names in INPUTS[name]]
    rows = rows_of(bound.engine, questions, cutoff_len=512)
    bound.engine.tokenizer.padding_side = side
    batch = collator_of(bound.engine, pad_to_multiple_of=8)(rows)
    check_positions(bound, batch, batch["attention_mask"])


def test_positions_of_a_video(bound, pictures):
    """Four frames, two of them a grid's step, after an image; stock's mm plugin and collator."""
    plugin, engine = bound.engine.template.mm_plugin, bound.engine
    images, videos = [pictures["small"]], [[pictures["wide"]] * 4]
    messages = [{"role": "user", "content": "<image>Then<video>What moves?"}, {"role": "assistant", "content": "No."}]
    messages = plugin.process_messages(messages, images, videos, [], engine.processor)
    ids = [token for part in engine.template.encode_oneturn(engine.tokenizer, messages) for token in part]
    row = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids, "images": images, "videos": videos}
    batch = collator_of(engine)([row])
    config, segments = engine.model.config, []
    runs = [(token, len(list(run))) for token, run in itertools.groupby(ids)]
    for token, size in runs:
        kind = {config.image_token_id: 1, config.video_token_id: 2}.get(token, 0)
        grid = (batch["image_grid_thw"], batch["video_grid_thw"])[kind - 1][0].tolist() if kind else None
        segments.append(Segment(kind, (grid[0], grid[1] // 2, grid[2] // 2)) if kind else Segment(0, (size,)))
    assert [segment.size for segment in segments if segment.kind] == [(1, 2, 2), (2, 9, 15)]
    expected = bound.reference(segments)[0]
    assert torch.equal(batch["position_ids"][1:, 0], torch.tensor(expected).T - 1)


def test_a_batch_of_text_only_counts_up(bound):
    """Stock hides a dummy image in it, under a zero mask."""
    rows = rows_of(bound.engine, [("What is a CT?", []), ("Why?", [])], cutoff_len=512)
    lengths = [len(row["input_ids"]) for row in rows]
    bound.engine.tokenizer.padding_side = "right"
    batch = collator_of(bound.engine)(rows)
    assert bound.engine.model.config.image_token_id in batch["input_ids"]
    for row, length in enumerate(lengths):
        assert batch["position_ids"][:, row, :length].tolist() == [list(range(length))] * 4
        assert batch["attention_mask"][row].sum() == length


def test_neat_packing_puts_each_row_where_it_stands_alone(bound, pictures):
    questions = [
        ("<image>Where?", [pictures["wide"]]),
        ("What is a CT?", []),
        ("<image><image>Both?", [pictures["small"], pictures["tall"]]),
    ]
    engine = bound.engine
    engine.tokenizer.padding_side = "right"
    alone = rows_of(engine, questions, cutoff_len=400)
    (packed,) = rows_of(engine, questions, packed=True, cutoff_len=160)
    boundaries = packed["packing_params"]["sequence_boundaries"]
    assert len(boundaries) == 5, "three rows and the padding"
    lengths = [end - start for start, end in zip(boundaries[:-2], boundaries[1:-1], strict=True)]
    mask = torch.tensor([packed["attention_mask"]])
    batch = collator_of(engine, neat_packing=True, block_diag_attn=True)([packed])
    check_positions(bound, batch, mask, lengths)

    collate, batch_alone = collator_of(engine), {}
    with torch.no_grad():
        found = engine.model(**{key: value for key, value in batch.items() if key != "labels"}).logits[0]
        for row in alone:
            ids = tuple(row["input_ids"])
            inputs = collate([row])
            inputs.pop("labels")
            batch_alone[ids] = engine.model(**inputs).logits[0, : len(ids)]
    for start, end in zip(boundaries[:-2], boundaries[1:-1], strict=True):
        expected = batch_alone.pop(tuple(batch["input_ids"][0, start:end].tolist()))
        assert torch.allclose(found[start:end], expected, atol=1e-4)
    assert not batch_alone


def test_a_cutoff_in_the_middle_of_an_image_is_a_clear_error(bound, pictures):
    """Stock fails there too, with a shape mismatch inside ``get_rope_index``, if it takes token types."""
    (row,) = rows_of(bound.engine, [("<image>Where?", [pictures["wide"]])], cutoff_len=30)
    with pytest.raises(ValueError, match=r"\[15\] tokens.*cut off in the middle of an image: raise .cutoff_len."):
        collator_of(bound.engine)([dict(row)])
    variant, _ = bound.variant, remove_rope(bound.engine.model)
    if "mm_token_type_ids" in inspect.signature(bound.engine.model.model.get_rope_index).parameters:
        with pytest.raises(RuntimeError, match="shape mismatch"):
            collator_of(bound.engine)([dict(row)])
    apply_rope(bound.engine.model, variant)
