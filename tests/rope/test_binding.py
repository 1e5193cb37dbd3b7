# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import copy
import inspect

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen2VLModel

from llamafactory_clinkd.rope import apply_rope, mcg, mixed_parameters, remove_rope, rope_settings

from .conftest import END, IMAGE, START, TAKES_TYPES, VIDEO, inputs_of, require_stock_positions
from .layouts import Row, batch_of, image, text, video


VARIANTS = {
    "mrope": {},
    "mcg": {},
    "mcg alpha 2, 3": {"variant": "mcg", "alpha_h": 2, "alpha_w": 3},
    "mcg_released": {},
    "rope_2d": {"sections": [0, 4, 4]},
    "rope_mixed": {},
}
PROMPTS = {
    "one image": [Row((text(3), image(2, 3), text(4)))],
    "left padding, unequal images": [
        Row((text(2), image(2, 2), text(1), image(3, 2), text(2))),
        Row((text(2), image(1, 4), text(3)), left_pad=6),
        Row((text(6),), left_pad=9),
    ],
    "image first and video": [Row((image(2, 2), text(2), video(2, 1, 2), text(2)))],
}
IMAGE_LAST = [Row((text(4), image(2, 3))), Row((text(2), image(4, 1)), left_pad=4)]


def bind(model, name):
    arguments = {"variant": name, **VARIANTS[name]}
    return apply_rope(model, arguments.pop("variant"), **arguments)


def logits_of_a_full_pass(model, inputs, new):
    """Logits before each of the ``new`` tokens ``[B, T]``, from one uncached pass that computes its own positions."""
    extra = {
        "input_ids": torch.cat((inputs["input_ids"], new), 1),
        "attention_mask": torch.cat((inputs["attention_mask"], torch.ones_like(new)), 1),
    }
    if "mm_token_type_ids" in inputs:
        extra["mm_token_type_ids"] = torch.cat((inputs["mm_token_type_ids"], torch.zeros_like(new)), 1)
    with torch.no_grad():
        return model(**{**inputs, **extra}, use_cache=False).logits[:, inputs["input_ids"].shape[1] - 1 : -1]


def generate(model, inputs, **kwargs):
    return model.generate(
        **inputs,
        max_new_tokens=6,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=0,
        suppress_tokens=[IMAGE, VIDEO, START, END],
        **kwargs,
    )


@pytest.mark.parametrize("prompt", sorted(PROMPTS))
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_cached_generation_equals_a_full_pass(qwen2_vl, name, prompt):
    model, inputs = bind(qwen2_vl, name), inputs_of(PROMPTS[prompt])
    for use_cache in (True, False):
        result = generate(model, inputs, use_cache=use_cache)
        new = result.sequences[:, inputs["input_ids"].shape[1] :]
        assert new.shape[1] == 6
        expected = logits_of_a_full_pass(model, inputs, new)
        assert torch.allclose(torch.stack(result.logits, 1), expected, atol=1e-4)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_generation_without_token_types_is_the_same(qwen2_vl, name):
    # LLaMA-Factory 0.9.5's chat and API pass none; stock then gives image tokens text positions.
    model, inputs = bind(qwen2_vl, name), inputs_of(PROMPTS["left padding, unequal images"])
    expected = {beams: generate(model, inputs, num_beams=beams) for beams in (1, 2)}
    inputs.pop("mm_token_type_ids", None)
    found = {beams: generate(model, inputs, num_beams=beams) for beams in (1, 2)}
    for beams in (1, 2):
        assert torch.equal(torch.stack(found[beams].logits), torch.stack(expected[beams].logits))
        assert torch.equal(found[beams].sequences, expected[beams].sequences)
    del inputs["attention_mask"], inputs["pixel_values"], inputs["image_grid_thw"]
    inputs["input_ids"] = torch.tensor([[5, 6, 7]])
    assert generate(model, inputs).sequences.shape == (1, 9)


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"mrope", "rope_mixed"}))
def test_generation_after_an_image_at_the_end(qwen2_vl, name):
    model, inputs = bind(qwen2_vl, name), inputs_of(IMAGE_LAST)
    for beams in (1, 3):
        result = generate(model, inputs, num_beams=beams)
        new = result.sequences[:, inputs["input_ids"].shape[1] :]
        if beams == 1:
            expected = logits_of_a_full_pass(model, inputs, new)
            assert torch.allclose(torch.stack(result.logits, 1), expected, atol=1e-4)
        assert torch.equal(
            new, generate(model, inputs, num_beams=beams, use_cache=False).sequences[:, -new.shape[1] :]
        )


def continues_at(mask):
    """What a delta is added to for the last token: the number of real tokens before it, in 5.0 and 5.1 of all."""
    real = hasattr(Qwen2VLModel, "compute_3d_position_ids")
    return mask.cumsum(1)[:, -1:] - 1 if real else torch.full((len(mask), 1), mask.shape[1] - 1)


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"mrope", "rope_mixed"}))
@pytest.mark.parametrize("prompt", [IMAGE_LAST, PROMPTS["left padding, unequal images"]])
def test_a_hand_written_decoding_loop_equals_a_full_pass(qwen2_vl, name, prompt):
    model, inputs = bind(qwen2_vl, name), inputs_of(prompt)
    new = torch.randint(1, 60, (len(prompt), 4), generator=torch.Generator().manual_seed(1))
    mask, logits = inputs["attention_mask"], []
    with torch.no_grad():
        step = model(**inputs, use_cache=True)
        for token in new.split(1, 1):
            logits.append(step.logits[:, -1])
            mask = torch.cat((mask, torch.ones_like(token)), 1)
            at = (model.model.rope_deltas + continues_at(mask)).expand(3, -1, -1)
            step = model(input_ids=token, attention_mask=mask, position_ids=at, past_key_values=step.past_key_values)
    assert torch.allclose(torch.stack(logits, 1), logits_of_a_full_pass(model, inputs, new), atol=1e-4)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_beam_search_scores_equal_a_full_pass(qwen2_vl, name):
    model, inputs = bind(qwen2_vl, name), inputs_of(PROMPTS["left padding, unequal images"])
    result = generate(model, inputs, num_beams=3, output_scores=True, length_penalty=0.0)
    new = result.sequences[:, inputs["input_ids"].shape[1] :]
    log_probs = logits_of_a_full_pass(model, inputs, new).log_softmax(-1)
    expected = log_probs.gather(2, new[..., None])[..., 0].sum(1)
    assert torch.allclose(result.sequences_scores, expected, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"mrope", "rope_mixed"}))
def test_the_model_uses_the_positions(qwen2_vl, name):
    inputs = inputs_of(PROMPTS["one image"])
    with torch.no_grad():
        stock = qwen2_vl(**inputs).logits
        changed = bind(qwen2_vl, name)(**inputs).logits
        explicit = qwen2_vl(**inputs, position_ids=qwen2_vl.model.get_rope_index(**inputs)[0]).logits
    assert torch.equal(changed, explicit)
    assert not torch.allclose(stock, changed, atol=1e-3)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_remove_restores_stock(qwen2_vl, name):
    inputs = inputs_of(PROMPTS["left padding, unequal images"])
    attributes, keys = set(vars(qwen2_vl.model)), set(qwen2_vl.state_dict())
    stock = generate(qwen2_vl, inputs)
    bind(qwen2_vl, name)
    assert rope_settings(qwen2_vl) is not None
    assert remove_rope(qwen2_vl) is qwen2_vl
    assert rope_settings(qwen2_vl) is None
    assert set(vars(qwen2_vl.model)) == attributes and set(qwen2_vl.state_dict()) == keys
    assert torch.equal(torch.stack(generate(qwen2_vl, inputs).logits), torch.stack(stock.logits))
    remove_rope(qwen2_vl)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_deep_copy_is_bound_to_itself(qwen2_vl, name):
    inputs = inputs_of(PROMPTS["one image"])
    bind(qwen2_vl, name)
    copied = copy.deepcopy(qwen2_vl)
    assert rope_settings(copied) == rope_settings(qwen2_vl)
    with torch.no_grad():
        expected = qwen2_vl(**inputs).logits
        remove_rope(qwen2_vl)
        assert torch.equal(copied(**inputs).logits, expected)
        if "get_rope_index" in vars(copied.model):
            assert copied.model.get_rope_index.__self__ is copied.model
        stock = qwen2_vl(**inputs).logits
        assert torch.equal(remove_rope(copied)(**inputs).logits, stock)


def test_applying_again_changes_nothing_and_another_variant_replaces(qwen2_vl):
    apply_rope(qwen2_vl, "mcg", sections=[0, 4, 4])
    bound, hooks = qwen2_vl.model.get_rope_index, dict(qwen2_vl.model.language_model.rotary_emb._forward_hooks)
    apply_rope(qwen2_vl, "mcg", sections=(0, 4, 4))
    assert qwen2_vl.model.get_rope_index is bound
    assert dict(qwen2_vl.model.language_model.rotary_emb._forward_hooks) == hooks

    apply_rope(qwen2_vl, "mcg_released", gap=3)
    assert not qwen2_vl.model.language_model.rotary_emb._forward_hooks
    expected = {"variant": "mcg_released", "alpha_h": 1, "alpha_w": 1, "gap": 3, "sections": None}
    assert rope_settings(qwen2_vl) == expected
    batch = batch_of(PROMPTS["one image"])
    assert torch.equal(qwen2_vl.model.get_rope_index(**batch)[0], mcg.mcg_released(**batch, gap=3)[0])

    apply_rope(qwen2_vl, "mrope")
    assert "get_rope_index" not in vars(qwen2_vl.model)


def test_a_second_model_of_the_same_config_is_untouched(qwen2_vl):
    other = type(qwen2_vl)(qwen2_vl.config).eval()
    other.load_state_dict(qwen2_vl.state_dict())
    inputs = inputs_of(PROMPTS["one image"])
    with torch.no_grad():
        before = other(**inputs).logits
        apply_rope(qwen2_vl, "mcg", sections=[0, 4, 4])
        assert torch.equal(other(**inputs).logits, before)
    assert rope_settings(other) is None


def test_sections_equal_a_model_configured_with_them(qwen2_vl):
    inputs = inputs_of(PROMPTS["one image"])
    with torch.no_grad():
        found = apply_rope(qwen2_vl, "mrope", sections=[1, 5, 2])(**inputs).logits
        remove_rope(qwen2_vl)
        qwen2_vl.config.text_config.rope_parameters["mrope_section"] = [1, 5, 2]
        assert torch.equal(qwen2_vl(**inputs).logits, found)


@pytest.mark.parametrize("sections", [[0, 4, 5], [8, 0], [9, -1, 0], [2, 3, 3.0]])
def test_sections_that_do_not_fit_are_refused_and_nothing_is_bound(qwen2_vl, sections):
    with pytest.raises(ValueError, match=r"rotary dimension = 8.*model's own are \[2, 3, 3\]"):
        apply_rope(qwen2_vl, "mcg", sections=sections)
    assert rope_settings(qwen2_vl) is None and "get_rope_index" not in vars(qwen2_vl.model)


@pytest.mark.parametrize(
    ("variant", "arguments", "message"),
    [
        ("mcg_rope", {}, "must be one of mrope, mcg"),
        ("mcg", {"alpha_h": 0}, "alpha_h must be an integer >= 1.*found 0"),
        ("mcg", {"alpha_w": 1.5}, "alpha_w must be an integer >= 1.*found 1.5"),
        ("mcg_released", {"gap": True}, "gap must be an integer"),
        ("mcg", {"gap": 3}, "gap=3 belongs to mcg_released"),
        ("rope_2d", {"alpha_h": 2}, "alpha_h=2 belongs to mcg"),
    ],
)
def test_bad_arguments_are_refused(qwen2_vl, variant, arguments, message):
    with pytest.raises(ValueError, match=message):
        apply_rope(qwen2_vl, variant, **arguments)


def test_another_architecture_is_refused_by_name():
    for call in (lambda m: apply_rope(m, "mcg"), remove_rope, rope_settings):
        with pytest.raises(TypeError, match=r"Qwen2VLModel, Qwen2_5_VLModel, Qwen3VLModel.*found Linear"):
            call(nn.Linear(2, 2))


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_behind_peft(qwen2_vl, name):
    inputs = inputs_of(PROMPTS["one image"])
    expected = generate(bind(copy.deepcopy(qwen2_vl), name), inputs)
    wrapped = get_peft_model(qwen2_vl, LoraConfig(r=2, target_modules=["q_proj", "qkv"]))
    bind(wrapped, name)
    assert torch.equal(torch.stack(generate(wrapped, inputs).logits), torch.stack(expected.logits))
    merged = wrapped.merge_and_unload()
    assert rope_settings(merged)["variant"] == rope_settings(wrapped)["variant"]
    assert torch.allclose(torch.stack(generate(merged, inputs).logits), torch.stack(expected.logits), atol=1e-5)


def test_the_signature_is_what_callers_look_for(qwen2_vl):
    stock = inspect.signature(qwen2_vl.model.get_rope_index).parameters
    bound = inspect.signature(apply_rope(qwen2_vl, "mcg").model.get_rope_index).parameters
    assert set(stock) <= set(bound) or not TAKES_TYPES  # LLaMA-Factory looks for this parameter
    assert ("mm_token_type_ids" in bound) is TAKES_TYPES


def test_positional_arguments_are_in_the_order_of_stock(qwen2_5_vl):
    """transformers 5.0 passes the grids by position, 5.3 and later the token types first."""
    inputs = inputs_of(PROMPTS["image first and video"])
    bound = apply_rope(qwen2_5_vl, "mcg").model.get_rope_index
    names = list(inspect.signature(type(qwen2_5_vl.model).get_rope_index).parameters)[1:]
    by_position = bound(*(inputs.get(name) for name in names if name != "kwargs"))
    by_name = bound(**{name: inputs.get(name) for name in names if name != "kwargs"})
    assert torch.equal(by_position[0], by_name[0]) and torch.equal(by_position[1], by_name[1])


def test_positions_without_token_types(qwen2_vl):
    inputs = inputs_of(PROMPTS["image first and video"])
    expected = apply_rope(qwen2_vl, "mcg").model.get_rope_index(**inputs)[0]
    inputs.pop("mm_token_type_ids", None)
    assert torch.equal(qwen2_vl.model.get_rope_index(**inputs)[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_llamafactory_s_collator_uses_the_bound_method(qwen2_vl, name):
    from types import SimpleNamespace

    from llamafactory.data.collator import MultiModalDataCollatorForSeq2Seq as Collator

    inputs = inputs_of(PROMPTS["left padding, unequal images"])
    expected = bind(qwen2_vl, name).model.get_rope_index(**inputs)
    wrapped = get_peft_model(qwen2_vl, LoraConfig(r=2, target_modules=["q_proj"]))
    collator = SimpleNamespace(model=wrapped, template="qwen2_vl")
    Collator.__post_init__(collator)
    features = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    Collator._compute_rope_position_ids(collator, features, {"image_grid_thw": inputs["image_grid_thw"]})
    assert torch.equal(features["position_ids"], expected[0]) and features["position_ids"].dtype == torch.int64
    assert torch.equal(features["rope_deltas"], expected[1])


def test_a_float_mask_keeps_integers(qwen2_vl):
    batch = batch_of(PROMPTS["left padding, unequal images"])
    ids, deltas = apply_rope(qwen2_vl, "mcg").model.get_rope_index(
        **{**batch, "attention_mask": batch["attention_mask"].float()}
    )
    assert ids.dtype == torch.int64 and deltas.dtype == torch.int64
    assert torch.equal(ids, mcg.mcg(**batch)[0])


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_qwen2_5_vl(qwen2_5_vl, name):
    inputs = inputs_of([Row((text(3), image(2, 3), text(2), video(2, 2, 2), text(2)))])
    model = bind(qwen2_5_vl, name)
    result = generate(model, inputs)
    new = result.sequences[:, inputs["input_ids"].shape[1] :]
    assert torch.allclose(torch.stack(result.logits, 1), logits_of_a_full_pass(model, inputs, new), atol=1e-4)


def test_qwen2_5_vl_keeps_absolute_time(qwen2_5_vl):
    batch = batch_of([Row((text(2), video(3, 4, 4), text(1), video(2, 4, 4), text(1)))])
    batch.update(input_ids=torch.zeros_like(batch["mm_token_type_ids"]), second_per_grid_ts=torch.tensor([1.0, 2.5]))
    require_stock_positions(videos=True)
    stock = qwen2_5_vl.model.get_rope_index(**batch)
    ours = apply_rope(qwen2_5_vl, "mcg_released", gap=1).model.get_rope_index(**batch)
    assert torch.equal(ours[0], stock[0])


@pytest.mark.parametrize("grid", [[[1, 4, 6]], [[1, 12, 10], [1, 4, 4]]])
def test_qwen2_5_vl_turns_each_patch_in_the_order_of_its_windows(qwen2_5_vl, grid):
    """Stock's own angles, asked for with other frequencies, are what rope_mixed reaches with the difference."""
    tower, grid = qwen2_5_vl.model.visual, torch.tensor(grid)
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))

    def angles(attention):
        seen = []
        handle = attention.register_forward_pre_hook(
            lambda m, a, k: seen.append(k["position_embeddings"]), with_kwargs=True
        )
        with torch.no_grad():
            output = tower(pixels, grid_thw=grid).pooler_output
        handle.remove()
        return [part.unsqueeze(-2) for part in seen[0]], output

    apply_rope(qwen2_5_vl, "rope_mixed")
    for _, delta in mixed_parameters(qwen2_5_vl):
        delta.data[0, :, :4], delta.data[1, :, 4:] = (0.5 * tower.rotary_pos_emb.inv_freq for _ in range(2))
    found, output = angles(tower.blocks[1].attn)
    remove_rope(qwen2_5_vl)
    tower.rotary_pos_emb.inv_freq *= 1.5
    expected, stock = angles(tower.blocks[1].attn)
    for own, other in zip(found, expected, strict=True):
        assert torch.allclose(own, other.expand_as(own), atol=1e-4)
    assert torch.allclose(output, stock, atol=1e-4)
