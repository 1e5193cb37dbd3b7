# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The loops of the pretraining, on made-up scans."""

import math

import numpy as np
import pytest
import torch
from miniature import tokenizer
from miniature.demo import pretrain_models
from miniature.demo.corpora import CELL, cell_boxes, cells_of
from miniature.demo.pretrain_models import smooth_targets, start_from, train_answers, untrained
from miniature.model_inputs import collate, encode
from miniature.models import ModelSize
from miniature.vision import CellReader, SeenTower, patch_order, see, train_tower
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor


@pytest.fixture
def model(tmp_path, toy_corpus, monkeypatch):
    """An untrained base of width 32 and its processor."""
    size = ModelSize(hidden=32, layers=1)
    monkeypatch.setattr(pretrain_models, "BASE", size)
    monkeypatch.setattr(pretrain_models, "TEACHER", size)
    monkeypatch.setattr(tokenizer, "WORDS", tokenizer.WORDS)  # `untrained` sets it
    folder = untrained(tmp_path, toy_corpus)["base"]
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


def test_the_seen_tower_gives_what_the_tower_gives(model, toy_corpus):
    model, processor = model
    tower = model.model.visual.eval()
    ids, labels = encode(toy_corpus.messages[0], processor.tokenizer)
    inputs = collate([(ids, labels)], processor.tokenizer.pad_token_id, model.config.image_token_id)
    output = processor.image_processor(images=[toy_corpus.pictures[0]], return_tensors="pt")
    seen = see(tower, toy_corpus.pictures[:1], processor).float().flatten(0, 1)
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


def test_the_tower_learns_and_leaves_the_merger(model, toy_corpus, tmp_path):
    model, processor = model
    tower = model.model.visual
    merger = [parameter.clone() for parameter in tower.merger.parameters()]
    losses = []
    advance = lambda step, steps, loss: losses.append(loss)  # noqa: E731
    train_tower(
        tower, toy_corpus, processor, steps=25, checkpoint=tmp_path / "v.safetensors", batch_size=8, advance=advance
    )
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(merger, tower.merger.parameters(), strict=True))
    logits, boxes = CellReader(tower, toy_corpus.classes)(*_pixels(toy_corpus, processor))
    assert logits.shape == (64, 4, 6) and boxes.shape == (64, 4, 4)


def _pixels(toy_corpus, processor):
    output = processor.image_processor(images=[toy_corpus.pictures[0]], return_tensors="pt")
    return output["pixel_values"], output["image_grid_thw"]


@pytest.mark.parametrize("both_positions", [False, True])
def test_the_language_model_learns_and_leaves_the_tower(model, toy_corpus, tmp_path, both_positions):
    model, processor = model
    tower = model.model.visual
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    losses = []
    train_answers(
        model,
        processor,
        toy_corpus,
        see(tower, toy_corpus.pictures, processor),
        np.arange(24),
        both_positions,
        steps=30,
        peak=5e-3,
        checkpoint=tmp_path / "l.safetensors",
        batch_size=8,
        seed=1,
        advance=lambda step, steps, loss: losses.append(loss),
    )
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert model.model.visual is tower
    changed = {name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("merger.") for name in changed)


def test_a_coordinate_is_one_token_and_its_target_is_smooth(model):
    tokens = model[1].tokenizer
    first, middle, last = tokens.convert_tokens_to_ids(["000", "500", "999"])
    assert tokens.tokenize("(018,357)")[1:4] == ["018", ",", "357"]
    table = smooth_targets(tokens, len(tokens))
    torch.testing.assert_close(table.sum(dim=1), torch.ones(len(tokens)))
    neighbour = tokens.convert_tokens_to_ids("518")
    assert table[middle, neighbour] / table[middle, middle] == pytest.approx(math.exp(-0.5))
    assert table[first, first] == table[last, last] > table[middle, middle]
    word = tokens.encode("block")[0]
    assert table[word, word] == 1


def test_a_second_stage_takes_language_model_and_merger_from_the_checkpoint(model, tmp_path):
    model = model[0]
    own = {name: value.clone() for name, value in model.named_parameters()}
    save_file({f"parameter/{name}": value + 1 for name, value in own.items()}, tmp_path / "c.safetensors")
    start_from(model, tmp_path / "c.safetensors")
    for name, value in model.named_parameters():
        kept = name.startswith("model.visual.") and ".merger." not in name
        torch.testing.assert_close(value, own[name] if kept else own[name] + 1, rtol=0, atol=0)
