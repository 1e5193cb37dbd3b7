# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import inspect
import random

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from llamafactory_clinkd.generation import preserve_training_state
from llamafactory_clinkd.generation.decode import (
    ANSWER_TOKENS,
    _TokenLogprobs,
    base_model,
    decode_batch,
    generation_settings,
    model_inputs,
)

from .conftest import Collator, make_rows


def collated(tokenizer, n, seed=0):
    rows, _ = make_rows(tokenizer, n, seed)
    return Collator()([dict(row) for row in rows])


def stock_positions(model, ids, grid):
    """Positions and deltas of one row; transformers 5.0 to 5.2 find images by their tokens and take no types."""
    values = {"input_ids": ids, "image_grid_thw": grid}
    if "mm_token_type_ids" in inspect.signature(model.model.get_rope_index).parameters:
        values["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    return model.model.get_rope_index(**values)


def by_hand(model, row, steps):
    """Greedy decoding without cache, padding or `generate`: the definition."""
    ids = torch.tensor([row["input_ids"]])
    pixels = {}
    if row["images"]:
        pixels["pixel_values"] = torch.tensor(row["images"]).flatten(0, 1)
        pixels["image_grid_thw"] = torch.tensor([[1, 4, 4]] * len(row["images"]))
    answer, logprobs = [], []
    for _ in range(steps):
        positions, _ = stock_positions(model, ids, pixels.get("image_grid_thw"))
        with torch.no_grad():
            last = model(input_ids=ids, position_ids=positions, **pixels).logits[0, -1].log_softmax(-1)
        answer.append(int(last.argmax()))
        logprobs.append(float(last.max()))
        ids = torch.cat([ids, torch.tensor([[answer[-1]]])], dim=1)
        if answer[-1] == 1:
            break
    return answer, sum(logprobs) / len(logprobs)


def test_greedy_equals_decoding_by_hand(model, tokenizer):
    rows, _ = make_rows(tokenizer, 8)
    settings = generation_settings(model, tokenizer, {"max_new_tokens": 6}, 1)
    got = decode_batch(model, tokenizer, model_inputs(model, collated(tokenizer, 8), "cpu"), settings)
    for row, result in zip(rows, got, strict=True):
        answer, logprob = by_hand(model, row, 6)
        (candidate,) = result["candidates"]
        assert candidate["text"] == tokenizer.decode([token for token in answer if token != 1])
        assert candidate["logprob"] == pytest.approx(logprob, abs=1e-5)
        assert result["tokens"] == len(answer)


@pytest.mark.parametrize("length_penalty", [1.0, 0.5])
def test_beams_equal_generate_row_by_row(model, tokenizer, length_penalty):
    rows, _ = make_rows(tokenizer, 6)
    settings = generation_settings(
        model, tokenizer, {"max_new_tokens": 6, "num_beams": 4, "length_penalty": length_penalty}, 3
    )
    got = decode_batch(model, tokenizer, model_inputs(model, collated(tokenizer, 6), "cpu"), settings)
    for row, result in zip(rows, got, strict=True):
        inputs = model_inputs(model, Collator()([dict(row)]), "cpu")
        output = model.generate(
            **inputs,
            max_new_tokens=6,
            num_beams=4,
            num_return_sequences=3,
            length_penalty=length_penalty,
            do_sample=False,
            eos_token_id=1,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        transitions = model.compute_transition_scores(output.sequences, output.scores, output.beam_indices)
        for candidate, sequence, steps in zip(result["candidates"], output.sequences, transitions, strict=True):
            answer = sequence[len(row["input_ids"]) :].tolist()
            length = answer.index(1) + 1 if 1 in answer else len(answer)
            assert candidate["text"] == tokenizer.decode([token for token in answer[:length] if token != 1])
            assert candidate["logprob"] == pytest.approx(float(steps[:length].sum()) / length, abs=1e-5)


def test_sampled_logprobs_are_the_models_own(model, tokenizer):
    row = make_rows(tokenizer, 1)[0][0]
    inputs = model_inputs(model, Collator()([dict(row)]), "cpu")
    settings = generation_settings(model, tokenizer, {"max_new_tokens": 5, "do_sample": True, "top_k": 0}, 4)
    candidates = decode_batch(model, tokenizer, inputs, settings, seed=3)[0]["candidates"]
    assert len({candidate["text"] for candidate in candidates}) > 1
    for candidate in candidates:
        answer = tokenizer(candidate["text"])["input_ids"]
        answer += [1] * (len(answer) < 5)
        ids = torch.tensor([row["input_ids"] + answer])
        types = (ids == model.config.image_token_id).int()
        # a sampled image or video token would change the positions of a full pass, so the prompt's are carried on
        positions, _ = stock_positions(model, torch.tensor([row["input_ids"]]), inputs["image_grid_thw"])
        more = torch.arange(ids.size(1) - positions.size(-1)) + positions.max() + 1
        positions = torch.cat([positions, more.expand(3, 1, -1)], dim=-1)
        embeds = model.get_input_embeddings()(ids)
        features = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
        embeds[0, : len(row["input_ids"])][types[0, : len(row["input_ids"])].bool()] = torch.cat(features)
        with torch.no_grad():
            hidden = model.model.language_model(inputs_embeds=embeds, position_ids=positions).last_hidden_state
            logprobs = model.lm_head(hidden)[0].log_softmax(-1)
        expected = logprobs[len(row["input_ids"]) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).mean()
        assert candidate["logprob"] == pytest.approx(float(expected), abs=1e-5)


def test_the_first_of_several_samples_is_the_greedy_answer(model, tokenizer):
    inputs = model_inputs(model, collated(tokenizer, 4), "cpu")
    more = {"max_new_tokens": 6, "do_sample": True, "top_k": 0, "top_p": 0.9, "temperature": 1.5}
    settings = generation_settings(model, tokenizer, more, 3)
    rows = decode_batch(model, tokenizer, inputs, settings, seed=3)
    others = decode_batch(model, tokenizer, inputs, settings, seed=4)
    plain = generation_settings(model, tokenizer, {"max_new_tokens": 6}, 1)
    for row, other, greedy in zip(rows, others, decode_batch(model, tokenizer, inputs, plain), strict=True):
        assert row["candidates"][0] == other["candidates"][0]
        assert row["candidates"][0]["text"] == greedy["candidates"][0]["text"]
    assert [row["candidates"][1:] for row in rows] != [row["candidates"][1:] for row in others]

    del settings["greedy_first"]
    unchanged = decode_batch(model, tokenizer, inputs, settings, seed=3)
    assert [row["candidates"][1:] for row in unchanged] == [row["candidates"][1:] for row in rows]
    assert "_get_logits_processor" not in vars(model)


def test_a_greedy_candidates_logprob_is_comparable_with_the_samples(model, tokenizer):
    """A sample that is the greedy answer has its log-probability, after temperature and top-p."""
    inputs = model_inputs(model, collated(tokenizer, 4), "cpu")
    more = {"max_new_tokens": 2, "do_sample": True, "top_k": 0, "top_p": 0.8, "temperature": 0.3}
    rows = decode_batch(model, tokenizer, inputs, generation_settings(model, tokenizer, more, 30), seed=3)
    compared = 0
    for first, *rest in (row["candidates"] for row in rows):
        same = [each["logprob"] for each in rest if each["text"] == first["text"]]
        assert same == pytest.approx([first["logprob"]] * len(same), abs=1e-5)
        compared += len(same) if first["logprob"] < -0.01 else 0
    assert compared > 5


def test_the_cache_is_used_in_training_mode_with_checkpointing(model, tokenizer):
    model.config.use_cache = False
    model.gradient_checkpointing_enable()
    model.train()
    widths = []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["inputs_embeds"].size(1)), with_kwargs=True
    )
    inputs = model_inputs(model, collated(tokenizer, 4), "cpu")
    with preserve_training_state(model):
        decode_batch(model, tokenizer, inputs, generation_settings(model, tokenizer, {"max_new_tokens": 4}, 1))
    assert widths == [inputs["input_ids"].size(1), 1, 1, 1]
    assert model.training and model.is_gradient_checkpointing and model.config.use_cache is False


def test_preserve_training_state_restores_modes_and_generators(model):
    model.train()
    model.model.visual.eval()
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    with pytest.raises(KeyError), preserve_training_state(model):
        assert not any(module.training for module in model.modules())
        random.random(), np.random.rand(), torch.rand(1)
        raise KeyError
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    assert after[:2] == before[:2] and torch.equal(after[2], before[2])
    assert model.training and model.model.language_model.training and not model.model.visual.training


def test_the_scores_of_each_step_are_freed():
    """Beam search with scores must not hold one [rows, V] tensor a step."""
    criterion = _TokenLogprobs()
    scores = (torch.randn(6, 50), torch.randn(6, 50))
    stop = criterion(torch.zeros(24, 9, dtype=torch.long), scores)
    assert not stop.any() and criterion.steps == []
    assert scores[1].untyped_storage().size() == 0 and scores[0].untyped_storage().size() == 6 * 50 * 4


def test_tags_of_an_answer_do_not_end_it(model, tokenizer):
    tags = [token for token in ANSWER_TOKENS if token in tokenizer.get_vocab()]
    ends = [1, *tokenizer.convert_tokens_to_ids(tags), 5]
    assert len(ends) == 4
    settings = generation_settings(model, tokenizer, {"eos_token_id": ends}, 1)
    assert settings["eos_token_id"] == [1, 5]
    assert generation_settings(model, tokenizer, {}, 1)["eos_token_id"] == [1]


def test_settings(model, tokenizer):
    settings = generation_settings(model, tokenizer, {"num_beams": 2}, 3)
    assert (settings["num_beams"], settings["num_return_sequences"], settings["do_sample"]) == (3, 3, False)
    settings = generation_settings(model, tokenizer, {"do_sample": True}, 3)
    assert (settings["num_beams"], settings["num_return_sequences"], settings["greedy_first"]) == (1, 3, True)
    assert "greedy_first" not in generation_settings(model, tokenizer, {"do_sample": True}, 1)
    with pytest.raises(ValueError, match="num_candidates"):
        generation_settings(model, tokenizer, {}, 0)


def test_special_tokens_in_texts(model, tokenizer):
    settings = generation_settings(model, tokenizer, {"max_new_tokens": 8}, 1)
    inputs = model_inputs(model, collated(tokenizer, 10), "cpu")
    kept = decode_batch(model, tokenizer, inputs, settings)
    left_out = decode_batch(model, tokenizer, inputs, settings, skip_special_tokens=True)
    texts = [[row["candidates"][0]["text"] for row in rows] for rows in (kept, left_out)]
    assert any("<|box_start|>" in text for text in texts[0]) and not any("<|im_end|>" in text for text in texts[0])
    assert not any("<|" in text for text in texts[1])


def test_right_padding_is_refused(model, tokenizer):
    rows, _ = make_rows(tokenizer, 3)
    with pytest.raises(ValueError, match="padding_side"):
        model_inputs(model, Collator(side="right")([dict(row) for row in rows]), "cpu")


def test_through_lora_and_data_parallel(model, tokenizer):
    inputs = model_inputs(model, collated(tokenizer, 5), "cpu")
    settings = generation_settings(model, tokenizer, {"max_new_tokens": 5}, 3)
    plain = decode_batch(model, tokenizer, inputs, settings)

    wrapped = torch.nn.DataParallel(get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"])))
    encoded = []
    model.model.visual.register_forward_hook(
        lambda module, args, kwargs, output: encoded.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    assert base_model(wrapped) is model
    takes_types = "mm_token_type_ids" in inspect.signature(model.forward).parameters
    assert ("mm_token_type_ids" in model_inputs(wrapped, collated(tokenizer, 5), "cpu")) == takes_types
    adapted = decode_batch(
        wrapped, tokenizer, inputs, generation_settings(wrapped, tokenizer, {"max_new_tokens": 5}, 3)
    )
    assert [r["candidates"] for r in adapted] == [r["candidates"] for r in plain]  # a fresh adapter changes nothing
    assert encoded == [5]
