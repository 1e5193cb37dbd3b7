# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from tiny_qwen3_vl import build_tiny_qwen3_vl
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from llamafactory_clinkd.generation import shared_prefill as module
from llamafactory_clinkd.generation.decode import decode_batch, generation_settings, model_inputs
from llamafactory_clinkd.generation.shared_prefill import shared_prefill
from llamafactory_clinkd.rope import apply_rope

from .conftest import Collator, make_rows


IMAGES = 6  # of the six rows: 1, 1, 2, 0, 1, 1
WAYS = [{"num_beams": 3}, {"num_beams": 5}, {"do_sample": True}, {"do_sample": True, "num_beams": 4}]


def inputs_of(model, tokenizer, n=6):
    rows, _ = make_rows(tokenizer, n)
    return model_inputs(model, Collator()([dict(row) for row in rows]), "cpu")


def with_and_without(monkeypatch, model, tokenizer, inputs, more):
    """Candidates with a shared prefill and stock's, and the rows of each one's first forward pass."""
    settings = generation_settings(model, tokenizer, {"max_new_tokens": 6, **more}, 3)
    widths, answers = [], []
    hook = model.model.language_model.register_forward_hook(
        lambda _, args, kwargs, output: widths.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    for models in (module.SHARED_PREFILL_MODELS, ()):
        monkeypatch.setattr(module, "SHARED_PREFILL_MODELS", models)
        start = len(widths)
        answers.append((decode_batch(model, tokenizer, inputs, settings, seed=5), widths[start][0]))
    hook.remove()
    return answers


def assert_same(one, other):
    assert [[c["text"] for c in row["candidates"]] for row in one] == [
        [c["text"] for c in row["candidates"]] for row in other
    ]
    for mine, stock in zip(one, other, strict=True):
        assert [c["logprob"] for c in mine["candidates"]] == pytest.approx(
            [c["logprob"] for c in stock["candidates"]], abs=1e-5
        )


@pytest.mark.parametrize("variant", ["mrope", "mcg", "rope_2d"])
@pytest.mark.parametrize("more", WAYS, ids=str)
def test_candidates_are_those_of_stock(monkeypatch, model, tokenizer, more, variant):
    apply_rope(model, variant)
    (shared, rows), (stock, stock_rows) = with_and_without(
        monkeypatch, model, tokenizer, inputs_of(model, tokenizer), more
    )
    assert rows == 6
    assert stock_rows == 6 * max(3, more.get("num_beams", 1))
    assert_same(shared, stock)
    assert "forward" not in vars(model)


def test_rows_without_images(monkeypatch, model, tokenizer):
    inputs = inputs_of(model, tokenizer, 4)
    text = {key: value[3:] for key, value in inputs.items() if key in ("input_ids", "attention_mask")}
    (shared, rows), (stock, _) = with_and_without(monkeypatch, model, tokenizer, text, {})
    assert rows == 1
    assert_same(shared, stock)


@pytest.mark.parametrize("more", [{"num_beams": 3}, {"do_sample": True}])
def test_vision_tower_runs_once_per_image(model, tokenizer, more):
    encoded = []
    model.model.visual.register_forward_hook(
        lambda module, args, kwargs, output: encoded.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    settings = generation_settings(model, tokenizer, {"max_new_tokens": 6, **more}, 3)
    decode_batch(model, tokenizer, inputs_of(model, tokenizer), settings)
    assert encoded == [IMAGES]


def test_qwen3_vl_with_layers_of_the_tower_in_the_language_model(monkeypatch, tmp_path):
    folder = build_tiny_qwen3_vl(tmp_path, ["a liver", "a kidney on the left"], hidden_size=64, seed=0)
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    with torch.no_grad():
        for parameter in (each for each in model.parameters() if each.dim() > 1):
            parameter.normal_(std=0.3)
    start, image, end = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"])
    words = tokenizer("a liver on the left")["input_ids"]
    prompts = [
        [start, *[image] * 4, end, *words],
        [start, *[image] * 4, end, start, *[image] * 6, end, *words[:2]],
        words,
    ]
    width = max(map(len, prompts))
    grids = torch.tensor([[1, 4, 4], [1, 4, 4], [1, 4, 6]])
    batch = {
        "input_ids": torch.tensor([[tokenizer.pad_token_id] * (width - len(ids)) + ids for ids in prompts]),
        "attention_mask": torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]),
        "pixel_values": torch.randn(int(grids.prod(1).sum()), 3 * 2 * 16 * 16),
        "image_grid_thw": grids,
    }
    inputs = model_inputs(model, batch, "cpu")
    for more in WAYS:
        (shared, rows), (stock, _) = with_and_without(monkeypatch, model, tokenizer, inputs, more)
        monkeypatch.undo()
        assert rows == 3
        assert_same(shared, stock)


def test_a_video_has_a_prefill_for_each_candidate(monkeypatch, model, tokenizer):
    inputs = inputs_of(model, tokenizer)
    video = model.config.video_token_id
    videos = {
        "input_ids": torch.where(inputs["input_ids"] == model.config.image_token_id, video, inputs["input_ids"]),
        "attention_mask": inputs["attention_mask"],
        "pixel_values_videos": inputs["pixel_values"],
        "video_grid_thw": inputs["image_grid_thw"],
    }
    if "mm_token_type_ids" in inputs:
        videos["mm_token_type_ids"] = 2 * inputs["mm_token_type_ids"]
    (shared, rows), (stock, _) = with_and_without(monkeypatch, model, tokenizer, videos, {})
    assert rows == 18
    assert_same(shared, stock)


def test_another_cache_is_left_alone(model):
    model.generation_config.cache_implementation = "static"
    with shared_prefill(model, 3) as active:
        assert not active


def test_no_trace_is_left(model):
    def own(**kwargs):
        raise AssertionError

    model.forward = own
    with shared_prefill(model, 3) as active:
        assert active and model.forward is not own
    assert model.forward is own
    assert "_expand_inputs_for_generation" not in vars(model)
    with shared_prefill(model, 1) as active:
        assert not active
    with shared_prefill(torch.nn.Linear(1, 1), 3) as active:
        assert not active
