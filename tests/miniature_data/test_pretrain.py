# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The loops of the pretraining, on a made-up scan."""

import numpy as np
import pytest
import torch
from miniature.cells import CELL, cell_boxes, cells_of
from miniature.corpus import Corpus, encode, pointing_turns
from miniature.language import SeenTower, collate, see, train_language
from miniature.models import ModelSize, build_demo_models
from miniature.rows import make_row
from miniature.vision import CellReader, patch_order, train_tower
from transformers import AutoModelForImageTextToText, AutoProcessor


@pytest.fixture(scope="module")
def corpus(toy_scans):
    rows = [make_row(toy_scans, 0, "pretrain", number, turns=2) for number in range(24)]
    known = [row for row in rows if row.labels is not None]
    messages = [
        [
            {"role": role, "content": ("<image>" if number == 0 and role == "user" else "") + text}
            for number, turn in enumerate(row.turns)
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        for row in known
    ]
    return Corpus(
        pictures=np.stack([np.repeat(row.picture[..., None], 3, axis=-1) for row in known]),
        cells=np.stack([toy_scans.classes_of("brain_mr", cells_of(row.labels)) for row in known]),
        boxes=np.stack([cell_boxes(row.labels) for row in known]),
        classes=3,
        messages=messages,
    )


@pytest.fixture
def model(tmp_path, corpus):
    texts = [message["content"] for row in corpus.messages for message in row]
    size = ModelSize(hidden=32, layers=1)
    folder = build_demo_models(tmp_path, texts, base=size, teacher=size)["base"]
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def test_cells_are_the_middles_and_their_boxes_those_of_the_structure():
    labels = np.zeros((112, 112), dtype=np.int16)
    labels[14:42, 21:28] = 5
    cells, boxes = cells_of(labels), cell_boxes(labels)
    assert cells.shape == (16, 16) and cells[2:6, 3].tolist() == [5] * 4 and (cells != 0).sum() == 4
    assert boxes[2, 3].tolist() == [188, 125, 250, 375] and not boxes[cells == 0].any()


def test_patch_order_is_the_processors(model):
    """Each patch's pixels, read back from the processor's output, hold the numbers of that patch's cells."""
    _, processor = model
    numbers = np.arange(256).reshape(16, 16)
    picture = np.repeat(np.kron(numbers, np.ones((CELL, CELL)))[..., None], 3, axis=-1).astype(np.uint8)
    pixels = processor.image_processor(images=[picture], return_tensors="pt")["pixel_values"]
    mean, std = processor.image_processor.image_mean[0], processor.image_processor.image_std[0]
    patches = (pixels.view(64, 3, 2, 14, 14)[:, 0, 0] * std + mean) * 255
    cells = patches[:, CELL // 2 :: CELL, CELL // 2 :: CELL].reshape(64, 4).round().long()
    assert torch.equal(cells, patch_order(torch.from_numpy(numbers)[None]))


def test_pointing_turns_are_those_answered_by_a_box_with_the_image_in_front():
    box = "<|box_start|>(001,002),(003,004)<|box_end|>"
    asked = ["<image>What is it?", "Where is it?", "Tell me.", "And the other?"]
    answers = ["A liver", box, f"The region {box}", box]
    messages = [
        {"role": role, "content": text}
        for pair in zip(asked, answers, strict=True)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    kept = [message["content"] for message in pointing_turns(messages)]
    assert kept == ["<image>Where is it?", box, "And the other?", box]
    assert messages[0]["content"] == "<image>What is it?" and messages[2]["content"] == "Where is it?"
    assert pointing_turns(messages[:2]) == []


def test_the_seen_tower_gives_what_the_tower_gives(model, corpus):
    model, processor = model
    tower = model.model.visual.eval()
    ids, labels = encode(corpus.messages[0], processor.tokenizer)
    inputs = collate([(ids, labels)], processor.tokenizer.pad_token_id, model.config.image_token_id)
    output = processor.image_processor(images=[corpus.pictures[0]], return_tensors="pt")
    seen = see(tower, corpus.pictures[:1], processor).float().flatten(0, 1)
    with torch.no_grad():
        whole = model(pixel_values=output["pixel_values"], image_grid_thw=output["image_grid_thw"], **inputs).loss
        model.model.visual = SeenTower(tower)
        short = model(pixel_values=seen, image_grid_thw=output["image_grid_thw"], **inputs).loss
    torch.testing.assert_close(short, whole, rtol=1e-3, atol=1e-3)  # float16 in between


def test_collate_pads_on_the_right():
    batch = collate([([5, 6, 7], [-100, 6, 7]), ([6], [6])], pad=0, image=6)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [6, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [6, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["mm_token_type_ids"].tolist() == [[0, 1, 0], [1, 0, 0]]


def test_the_tower_learns_and_leaves_the_merger(model, corpus, tmp_path):
    model, processor = model
    tower = model.model.visual
    merger = [parameter.clone() for parameter in tower.merger.parameters()]
    losses = []
    advance = lambda step, steps, loss: losses.append(loss)  # noqa: E731
    train_tower(
        tower, corpus, processor, steps=25, checkpoint=tmp_path / "v.safetensors", batch_size=8, advance=advance
    )
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(merger, tower.merger.parameters(), strict=True))
    logits, boxes = CellReader(tower, 3)(*_pixels(corpus, processor))
    assert logits.shape == (64, 4, 3) and boxes.shape == (64, 4, 4)


def _pixels(corpus, processor):
    output = processor.image_processor(images=[corpus.pictures[0]], return_tensors="pt")
    return output["pixel_values"], output["image_grid_thw"]


def test_the_language_model_learns_and_leaves_the_tower(model, corpus, tmp_path):
    model, processor = model
    tower = model.model.visual
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    losses = []
    advance = lambda step, steps, loss: losses.append(loss)  # noqa: E731
    train_language(
        model,
        corpus,
        processor,
        steps=30,
        checkpoint=tmp_path / "l.safetensors",
        batch_size=8,
        peak=5e-3,
        advance=advance,
    )
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert model.model.visual is tower
    changed = {name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("merger.") for name in changed)
