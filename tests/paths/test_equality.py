# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Equality of logits on every path, for every variant, in models trained and saved by stock LLaMA-Factory."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from llamafactory_clinkd.rope import mixed_parameters, read_mixed, read_rope_config, remove_rope
from llamafactory_clinkd.rope.saved_positions import bind_settings

from .runs import VARIANTS, ask_api, chat, generated, infer_keys, prompt_of, recorded_logits, training_logits


pytestmark = pytest.mark.slow
TOLERANCE = 1e-4
LORA = {"finetuning_type": "lora", "lora_rank": 2, "lora_target": "q_proj,v_proj"}


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture
def image(sharp_workspace):
    return sharp_workspace / "data" / "images" / "ct_004.png"


def test_training_generation_chat_and_api_agree(variant, trained, image):
    from llamafactory.chat import ChatModel

    model = ChatModel(infer_keys(trained(variant)))
    answer, chat_logits = chat(model, image)
    engine = model.engine
    prompt = prompt_of(engine, [str(image)])
    new, cached = generated(engine, prompt, image, use_cache=True)
    again, uncached = generated(engine, prompt, image, use_cache=False)
    with recorded_logits(engine.model) as logits:
        response = ask_api(model, image)
    api_logits = torch.cat(logits)
    assert len(new) == 8 and again == new
    assert engine.tokenizer.decode(new, skip_special_tokens=True) == answer
    assert response["choices"][0]["message"]["content"] == answer
    assert response["usage"]["prompt_tokens"] == len(prompt)

    forward = training_logits(engine, prompt, new, image)
    for found in (cached, uncached, chat_logits, api_logits):
        assert torch.allclose(found, forward, atol=TOLERANCE)

    if variant == "rope_mixed":
        assert all(delta.abs().max() > 1e-3 for _, delta in mixed_parameters(engine.model)), "nothing was learned"
    remove_rope(engine.model)
    stock = training_logits(engine, prompt, new, image)
    if variant != "mrope":
        assert not torch.allclose(stock, forward, atol=100 * TOLERANCE), "this test could not tell positions apart"


def test_exported_and_reloaded_is_the_trained_model(variant, trained, image, tmp_path):
    from llamafactory.chat import ChatModel
    from llamafactory.train.tuner import export_model

    expected = chat(ChatModel(infer_keys(trained(variant))), image)
    export_model(infer_keys(trained(variant), export_dir=str(tmp_path)))
    exported = ChatModel(infer_keys(tmp_path))
    found = chat(exported, image)
    assert found[0] == expected[0] and torch.allclose(found[1], expected[1], atol=TOLERANCE)

    plain = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    bind_settings(plain, read_rope_config(tmp_path))
    assert read_mixed(tmp_path, plain) == (variant == "rope_mixed")
    exported.engine.model = plain
    found = chat(exported, image)
    assert found[0] == expected[0] and torch.allclose(found[1], expected[1], atol=TOLERANCE)


def test_merged_adapter_is_the_adapter(variant, trained, sharp_workspace, image, tmp_path):
    from llamafactory.chat import ChatModel
    from llamafactory.train.tuner import export_model

    adapter = trained(variant, **LORA)
    assert (adapter / "adapter_config.json").is_file()
    keys = infer_keys(sharp_workspace / "student", adapter_name_or_path=str(adapter), finetuning_type="lora")
    model = ChatModel(keys)
    answer, logits = chat(model, image)
    prompt = prompt_of(model.engine, [str(image)])
    new, _ = generated(model.engine, prompt, image)
    assert torch.allclose(training_logits(model.engine, prompt, new, image), logits, atol=TOLERANCE)

    export_model(keys | {"export_dir": str(tmp_path)})
    assert read_rope_config(tmp_path) == read_rope_config(adapter)
    found = chat(ChatModel(infer_keys(tmp_path)), image)
    assert found[0] == answer and torch.allclose(found[1], logits, atol=TOLERANCE)
