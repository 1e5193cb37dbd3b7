# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from llamafactory_clinkd.rope import apply_rope, mixed_parameters, read_mixed, remove_rope, write_mixed
from llamafactory_clinkd.rope.mixed import FILE, NAME, patch_positions

from .conftest import inputs_of
from .layouts import Row, image, text, video


ROWS = [Row((text(2), image(2, 3), text(2), video(2, 2, 2), text(2)))]


def scramble(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in mixed_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


def forward(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_step_0_is_stock(qwen2_vl, attention):
    qwen2_vl.set_attn_implementation(attention)
    inputs = inputs_of(ROWS)
    stock = forward(qwen2_vl, inputs)
    assert torch.allclose(forward(apply_rope(qwen2_vl, "rope_mixed"), inputs), stock, atol=1e-6)
    scramble(qwen2_vl)
    assert not torch.allclose(forward(qwen2_vl, inputs), stock, atol=1e-3)


def test_rotation_is_that_of_the_paper_for_each_layer_and_head(qwen2_vl):
    # Heo et al. (ECCV 2024): frequency i of a head turns by theta_h p_h + theta_w p_w; written out per patch, with
    # complex numbers, from the absolute frequencies (stock's plus what was learned).
    apply_rope(qwen2_vl, "rope_mixed")
    scramble(qwen2_vl)
    tower = qwen2_vl.model.visual
    grid = torch.tensor([[1, 4, 6], [2, 2, 4]])
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 2 * 14 * 14)
    seen = []
    attention = tower.blocks[1].attn
    handle = attention.register_forward_pre_hook(
        lambda m, a, k: seen.append(k["position_embeddings"]), with_kwargs=True
    )
    with torch.no_grad():
        tower(pixels, grid_thw=grid)
    handle.remove()
    cos, sin = (part.unsqueeze(-2) for part in seen[0])

    quarter, patches = tower.rotary_pos_emb.inv_freq, []
    for t, h, w in grid.tolist():
        frame = [
            (2 * R + r, 2 * C + c) for R in range(h // 2) for C in range(w // 2) for r in range(2) for c in range(2)
        ]
        patches += frame * t
    zeros = torch.zeros_like(quarter)
    theta_h = torch.cat((quarter, zeros)) + getattr(attention, NAME)[0]
    theta_w = torch.cat((zeros, quarter)) + getattr(attention, NAME)[1]
    for index, (row, column) in enumerate(patches):
        turn = torch.polar(torch.ones_like(theta_h), theta_h * row + theta_w * column).detach()
        assert torch.allclose(cos[index], turn.real.repeat(1, 2), atol=1e-5)
        assert torch.allclose(sin[index], turn.imag.repeat(1, 2), atol=1e-5)


def test_patch_positions_are_stock_s_order(qwen2_vl):
    grid = torch.tensor([[1, 4, 6], [3, 2, 2], [2, 6, 4]])
    tower = qwen2_vl.model.visual
    found = patch_positions(grid, 2)
    expected = tower.rot_pos_emb(grid)
    frequencies = tower.rotary_pos_emb.inv_freq
    assert torch.allclose((found[:, :, None] * frequencies).flatten(1), expected)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_trains_though_the_tower_is_frozen(qwen2_vl, checkpointing):
    qwen2_vl.requires_grad_(False)
    apply_rope(qwen2_vl, "rope_mixed")
    parameters = dict(mixed_parameters(qwen2_vl))
    assert len(parameters) == len(qwen2_vl.model.visual.blocks)
    assert [p for p in qwen2_vl.parameters() if p.requires_grad] == list(parameters.values())
    if checkpointing:
        qwen2_vl.gradient_checkpointing_enable({"use_reentrant": False})
    qwen2_vl.train()
    inputs = inputs_of(ROWS)
    optimizer = torch.optim.SGD(parameters.values(), lr=0.01)
    losses = []
    for _ in range(5):
        loss = qwen2_vl(**inputs, labels=inputs["input_ids"]).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.abs().max() > 0 for p in parameters.values())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_gradient_checkpointing_gives_the_same_gradients(qwen2_vl):
    apply_rope(qwen2_vl, "rope_mixed")
    scramble(qwen2_vl)
    qwen2_vl.train()
    first, second = inputs_of(ROWS), inputs_of([Row((image(3, 2), text(2)))], seed=5)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            qwen2_vl.gradient_checkpointing_enable({"use_reentrant": False})
        qwen2_vl.zero_grad()
        # Two forward passes before one backward pass: each must be replayed with its own grids.
        sum(qwen2_vl(**inputs, labels=inputs["input_ids"]).loss for inputs in (first, second)).backward()
        gradients.append([p.grad.clone() for _, p in mixed_parameters(qwen2_vl)])
    for plain, replayed in zip(*gradients, strict=True):
        assert torch.allclose(plain, replayed, atol=1e-6)


def test_they_are_in_the_state_dict_and_travel_through_it(qwen2_vl):
    other = copy.deepcopy(qwen2_vl)
    apply_rope(qwen2_vl, "rope_mixed")
    scramble(qwen2_vl)
    names = [name for name in qwen2_vl.state_dict() if name.endswith(NAME)]
    assert names == [f"model.visual.blocks.{i}.attn.{NAME}" for i in range(2)]
    apply_rope(other, "rope_mixed").load_state_dict(qwen2_vl.state_dict())
    inputs = inputs_of(ROWS)
    assert torch.equal(forward(other, inputs), forward(qwen2_vl, inputs))


def test_applying_again_keeps_what_was_learned_and_remove_drops_it(qwen2_vl):
    inputs = inputs_of(ROWS)
    stock = forward(qwen2_vl, inputs)
    apply_rope(qwen2_vl, "rope_mixed")
    scramble(qwen2_vl)
    learned = forward(qwen2_vl, inputs)
    assert torch.equal(forward(apply_rope(qwen2_vl, "rope_mixed"), inputs), learned)
    assert torch.equal(forward(remove_rope(qwen2_vl), inputs), stock)
    assert list(mixed_parameters(qwen2_vl)) == []


def test_a_checkpoint_carries_them(qwen2_vl, tmp_path):
    apply_rope(qwen2_vl, "rope_mixed")
    scramble(qwen2_vl)
    inputs = inputs_of(ROWS)
    qwen2_vl.save_pretrained(tmp_path)
    assert write_mixed(tmp_path, qwen2_vl) == tmp_path / FILE
    loaded = apply_rope(type(qwen2_vl).from_pretrained(tmp_path).eval(), "rope_mixed")
    assert read_mixed(tmp_path, loaded)
    assert torch.equal(forward(loaded, inputs), forward(qwen2_vl, inputs))


def test_an_adapter_folder_carries_them_and_merging_keeps_them(qwen2_vl, tmp_path):
    base = copy.deepcopy(qwen2_vl)
    wrapped = get_peft_model(qwen2_vl, LoraConfig(r=2, target_modules=["q_proj"]))
    apply_rope(wrapped, "rope_mixed")
    scramble(wrapped)
    wrapped.save_pretrained(tmp_path)
    write_mixed(tmp_path, wrapped)
    assert all(p.requires_grad for _, p in mixed_parameters(wrapped))
    inputs = inputs_of(ROWS)
    expected = forward(wrapped, inputs)
    apply_rope(base, "rope_mixed")
    assert read_mixed(tmp_path, base)
    assert torch.equal(forward(base, inputs), expected)  # a fresh adapter adds nothing
    assert torch.allclose(forward(wrapped.merge_and_unload(), inputs), expected, atol=1e-5)


def test_a_model_without_them_writes_and_reads_nothing(qwen2_vl, tmp_path):
    assert write_mixed(tmp_path, qwen2_vl) is None
    assert list(tmp_path.iterdir()) == []
    assert not read_mixed(tmp_path, qwen2_vl)


def test_a_file_of_another_model_is_refused(qwen2_vl, tmp_path):
    apply_rope(qwen2_vl, "rope_mixed")
    write_mixed(tmp_path, qwen2_vl)
    assert set(load_file(tmp_path / FILE)) == {"0", "1"}
    with pytest.raises(ValueError, match="Apply .rope_mixed. to the model"):
        read_mixed(tmp_path, remove_rope(qwen2_vl))


def test_bf16_at_step_0_is_bf16_stock(qwen2_vl):
    inputs = inputs_of(ROWS)
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].bfloat16()
    qwen2_vl.bfloat16()
    stock = forward(qwen2_vl, inputs)
    apply_rope(qwen2_vl, "rope_mixed").bfloat16()
    assert torch.equal(forward(qwen2_vl, inputs), stock)
