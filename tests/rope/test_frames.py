# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Qwen3-VL and Qwen3.5: a video is frames with a timestamp before each, and the axes share frequencies by turns."""

import copy

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from llamafactory_clinkd.rope import apply_rope, mixed_parameters, remove_rope, rope_settings
from llamafactory_clinkd.rope.mixed import NAME, patch_positions

from .conftest import END, IMAGE, START, TOKENS, VIDEO, inputs_of, require_stock_positions, sharpened
from .layouts import (
    Row,
    Segment,
    batch_of,
    image,
    mcg_reference,
    released_reference,
    rope_2d_reference,
    rows,
    text,
    video,
)
from .test_binding import generate, logits_of_a_full_pass
from .test_mcg import assert_follows


examples = settings(max_examples=40, deadline=None)  # tests assert no time
KINDS = [kind for kind in ("Qwen3VL", "Qwen3VLMoe", "Qwen3_5", "Qwen3_5Moe") if hasattr(transformers, f"{kind}Model")]
SECTIONS = [4, 2, 2]


def build(kind):
    """A random model of 0.1 M parameters, its weights large enough for positions to show in the logits."""
    torch.manual_seed(0)
    text_config = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": None,
        "eos_token_id": None,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e4, "mrope_section": SECTIONS, "mrope_interleaved": True,
            "partial_rotary_factor": 1.0,
        },
    }  # fmt: skip
    if "Moe" in kind:
        text_config |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        text_config |= {"shared_expert_intermediate_size": 16} if "3_5" in kind else {"decoder_sparse_step": 1}
    if "3_5" in kind:
        text_config |= {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2}
        text_config |= {"linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 32}
    vision |= {"num_position_embeddings": 64, "patch_size": 14}
    if "3_5" not in kind:
        vision |= {"deepstack_visual_indexes": [0]}
    config = getattr(transformers, f"{kind}Config")(text_config=text_config, vision_config=vision, **TOKENS)
    return sharpened(getattr(transformers, f"{kind}ForConditionalGeneration")(config))


MODELS = {kind: build(kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def model(request):
    return copy.deepcopy(MODELS[request.param])


@pytest.fixture
def qwen3_vl():
    return copy.deepcopy(MODELS["Qwen3VL"])


def timestamped(drawn, length):
    """Rows whose videos are frames, each behind ``length`` tokens of its timestamp; the text between them stays."""
    split = []
    for row in drawn:
        parts = []
        for segment in row.segments:
            t, *size = segment.size if segment.kind == 2 else (1,)
            frame = [Segment(2, (1, *size))] if segment.kind == 2 else [segment]
            if segment.kind == 2 and length:
                frame.insert(0, text(length))
            parts += frame * t
        split.append(Row(tuple(parts), row.left_pad))
    return split


def batch_with_frames(drawn, length):
    """The batch that a processor makes: tokens by frame, one grid ``[t, h, w]`` for each video."""
    split = timestamped(drawn, length)
    return split, batch_of(split) | {"video_grid_thw": batch_of(drawn)["video_grid_thw"]}


def positions(model, batch):
    """Positions, and deltas that count from the real tokens (in transformers 5.0 and 5.1 from the padded length)."""
    ids, deltas = model.model.get_rope_index(torch.zeros_like(batch["mm_token_type_ids"]), **batch)
    mask = batch["attention_mask"]
    padded = not hasattr(type(model.model), "compute_3d_position_ids")
    return ids, deltas + padded * (mask.shape[1] - mask.sum(1, keepdim=True))


def inputs_of_frames(drawn, length=2, seed=0):
    split, batch = batch_with_frames(drawn, length)
    inputs = inputs_of(split, seed)
    return inputs | ({"video_grid_thw": batch["video_grid_thw"]} if "video_grid_thw" in inputs else {})


PROMPTS = {
    "one image": [Row((text(3), image(2, 3), text(4)))],
    "two videos and an image": [Row((text(1), video(3, 2, 2), image(1, 4), text(2), video(2, 4, 2), text(2)))],
    "image last": [Row((text(4), image(2, 3)))],
}


@pytest.mark.parametrize("kind", KINDS)
@examples
@given(rows(), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3))
def test_mcg_equals_the_equations_token_by_token(kind, drawn, alpha_h, alpha_w, length):
    split, batch = batch_with_frames(drawn, length)
    found = positions(apply_rope(MODELS[kind], "mcg", alpha_h=alpha_h, alpha_w=alpha_w), batch)
    assert_follows(split, found, [mcg_reference(row.segments, alpha_h, alpha_w) for row in split])


@pytest.mark.parametrize("kind", KINDS)
@examples
@given(rows(), st.integers(1, 4), st.integers(0, 3))
def test_mcg_released_equals_its_reference(kind, drawn, gap, length):
    split, batch = batch_with_frames(drawn, length)
    found = positions(apply_rope(MODELS[kind], "mcg_released", gap=gap), batch)
    assert_follows(split, found, [released_reference(row.segments, gap) for row in split])


@pytest.mark.parametrize("kind", KINDS)
@examples
@given(rows(), st.integers(0, 3))
def test_rope_2d_equals_its_reference(kind, drawn, length):
    split, batch = batch_with_frames(drawn, length)
    found = positions(apply_rope(MODELS[kind], "rope_2d"), batch)
    assert_follows(split, found, [rope_2d_reference(row.segments) for row in split])


@pytest.mark.parametrize("kind", KINDS)
@examples
@given(rows(adjacent=False), st.integers(1, 3))
def test_gap_one_is_stock(kind, drawn, length):
    _, batch = batch_with_frames(drawn, length)
    model = remove_rope(MODELS[kind])
    input_ids = torch.zeros_like(batch["mm_token_type_ids"])
    grids = {key: None if grid is None else grid.clone() for key, grid in batch.items() if "grid" in key}
    require_stock_positions()
    stock = model.model.get_rope_index(input_ids, **{**batch, **grids})
    ours = apply_rope(model, "mcg_released", gap=1).model.get_rope_index(input_ids, **batch)
    for own, expected in zip(ours, stock, strict=True):
        assert torch.equal(own, expected)
    assert all(grid is None or torch.equal(grid, batch[key]) for key, grid in grids.items())  # nothing is changed


# rope_mixed keeps stock's positions, and transformers adds 1 to each axis after an image at the end.
@pytest.mark.parametrize(
    ("variant", "prompt"),
    [
        (variant, prompt)
        for variant in ("mcg", "mcg_released", "rope_2d", "rope_mixed")
        for prompt in sorted(PROMPTS)
        if (variant, prompt) != ("rope_mixed", "image last")
    ],
)
def test_cached_generation_equals_a_full_pass(model, variant, prompt):
    inputs = inputs_of_frames(PROMPTS[prompt])
    result = generate(apply_rope(model, variant), inputs)
    new = result.sequences[:, inputs["input_ids"].shape[1] :]
    assert new.shape[1] == 6
    assert torch.allclose(torch.stack(result.logits, 1), logits_of_a_full_pass(model, inputs, new), atol=2e-4)
    inputs.pop("mm_token_type_ids", None)  # as LLaMA-Factory's chat calls it
    assert torch.equal(generate(model, inputs).sequences, result.sequences)


@pytest.mark.parametrize("variant", ["mcg", "mcg_released", "rope_2d"])
def test_the_model_uses_them_and_remove_restores_stock(model, variant):
    inputs = inputs_of_frames(PROMPTS["two videos and an image"])
    with torch.no_grad():
        stock = model(**inputs).logits
        changed = apply_rope(model, variant, sections=[0, 4, 4])(**inputs).logits
        copied = copy.deepcopy(model)
        assert torch.equal(remove_rope(model)(**inputs).logits, stock)
        assert torch.equal(copied(**inputs).logits, changed)
    assert not torch.allclose(stock, changed, atol=1e-3)
    assert rope_settings(model) is None


def test_a_training_step_moves_the_loss(model):
    inputs = inputs_of_frames(PROMPTS["two videos and an image"])
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    apply_rope(wrapped, "mcg").train()
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(3):
        loss = wrapped(**inputs, labels=inputs["input_ids"]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]


@pytest.mark.parametrize(
    ("sections", "axes"), [([4, 2, 2], "THWTHWTT"), ([0, 4, 4], "HWHWHWHW"), ([1, 2, 5], "THWHWWWW")]
)
def test_the_axes_take_turns(model, sections, axes):
    """cos and sin of each frequency are those of the axis that the definition gives it, at that axis's position."""
    rotary = apply_rope(model, "mcg", sections=sections).model.language_model.rotary_emb
    ids = torch.randint(0, 50, (3, 2, 5), generator=torch.Generator().manual_seed(0))
    cos, sin = rotary(torch.zeros(2, 5, 32), ids)
    for index, axis in enumerate(axes):
        angle = ids["THW".index(axis)].double() * 1e4 ** (-2 * index / 16)
        for half in (index, index + 8):
            assert torch.allclose(cos[..., half].double(), angle.cos(), atol=1e-4)
            assert torch.allclose(sin[..., half].double(), angle.sin(), atol=1e-4)


def test_stocks_own_sections_are_stock(model):
    inputs = inputs_of_frames(PROMPTS["one image"])
    with torch.no_grad():
        stock = model(**inputs).logits
        assert torch.equal(apply_rope(model, "mrope", sections=SECTIONS)(**inputs).logits, stock)


def test_rope_mixed_turns_each_patch_as_in_the_paper(model):
    """Step 0 is stock; then each frequency of a head turns by theta_h p_h + theta_w p_w, written out per patch."""
    inputs = inputs_of_frames(PROMPTS["one image"])
    with torch.no_grad():
        stock = model(**inputs).logits
        assert torch.allclose(apply_rope(model, "rope_mixed")(**inputs).logits, stock, atol=1e-5)
        for _, delta in mixed_parameters(model):
            delta.copy_(torch.randn(delta.shape, generator=torch.Generator().manual_seed(3)))
        seen, attention = [], model.model.visual.blocks[1].attn
        attention.register_forward_pre_hook(lambda m, a, k: seen.append(k["position_embeddings"]), with_kwargs=True)
        assert not torch.allclose(model(**inputs).logits, stock, atol=1e-3)
    cos, sin = (part.unsqueeze(-2) for part in seen[0])
    frequencies = 1e4 ** (-torch.arange(0, 8, 2) / 8)
    theta = getattr(attention, NAME).detach().clone()
    theta[0, :, :4] += frequencies
    theta[1, :, 4:] += frequencies
    for index, (row, column) in enumerate(patch_positions(inputs["image_grid_thw"], 2).tolist()):
        angle = (theta[0] * row + theta[1] * column).repeat(1, 2)
        assert torch.allclose(cos[index], angle.cos(), atol=1e-4)
        assert torch.allclose(sin[index], angle.sin(), atol=1e-4)


def test_sections_that_do_not_fit_are_refused(qwen3_vl):
    with pytest.raises(ValueError, match=r"rotary dimension = 8.*model's own are \[4, 2, 2\]"):
        apply_rope(qwen3_vl, "mcg", sections=[0, 4, 5])
    assert rope_settings(qwen3_vl) is None


def test_beam_search_with_left_padding(qwen3_vl):
    inputs = inputs_of_frames([Row((text(2), image(2, 2), text(3))), Row((text(1), image(1, 2), text(2)), left_pad=4)])
    result = generate(apply_rope(qwen3_vl, "mcg"), inputs, num_beams=3, output_scores=True, length_penalty=0.0)
    new = result.sequences[:, inputs["input_ids"].shape[1] :]
    log_probs = logits_of_a_full_pass(qwen3_vl, inputs, new).log_softmax(-1)
    expected = log_probs.gather(2, new[..., None])[..., 0].sum(1)
    assert torch.allclose(result.sequences_scores, expected, atol=1e-4)
    assert not set(new.flatten().tolist()) & {IMAGE, VIDEO, START, END}
