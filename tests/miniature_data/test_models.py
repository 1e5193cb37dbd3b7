# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The small models are ordinary folders: whatever loads a Qwen2-VL loads them."""

import inspect

import numpy as np
import pytest
import torch
from miniature.model_inputs import IMAGE_TOKENS, SYSTEM, encode, pixel_values
from miniature.models import ModelSize, build_demo_models
from miniature.tokenizer import SPECIAL_TOKENS
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


TEXTS = [
    "<image>Where is the <|object_ref_start|>left kidney<|object_ref_end|> located in the image?",
    "<|box_start|>(012,345),(067,890)<|box_end|>",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    sizes = {"base": ModelSize(hidden=32, layers=1), "teacher": ModelSize(hidden=64, layers=2)}
    return build_demo_models(tmp_path_factory.mktemp("models"), TEXTS * 50, **sizes)


@pytest.fixture(scope="module")
def processor(folders):
    return AutoProcessor.from_pretrained(folders["base"])


def test_special_tokens_come_first_and_are_single(processor):
    tokenizer = processor.tokenizer
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert [tokenizer.encode(token) for token in SPECIAL_TOKENS] == [[number] for number in range(len(SPECIAL_TOKENS))]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_words_are_single_tokens_digits_too_and_any_text_survives(processor):
    tokenizer = processor.tokenizer
    assert tokenizer.tokenize("(012,345)")[1:4] == ["0", "1", "2"]
    assert tokenizer.tokenize(" kidney located") == ["Ġkidney", "Ġlocated"]
    text = "Überraschung: 12 µm — naïve 漢字 <|box_start|>(001,2)"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_both_share_tokenizer_and_processor_and_the_image_tokens_are_16(folders):
    files = [(folder / "tokenizer.json").read_bytes() for folder in folders.values()]
    assert files[0] == files[1]
    picture = Image.fromarray(np.zeros((112, 112, 3), dtype=np.uint8))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    for folder in folders.values():
        processor = AutoProcessor.from_pretrained(folder)
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = processor(text=[text], images=[picture], return_tensors="pt")
        image_token = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]]
        assert int((inputs["input_ids"] == image_token).sum()) == IMAGE_TOKENS


def test_the_auto_classes_load_them_and_they_answer(folders, processor):
    for folder in folders.values():
        model = AutoModelForImageTextToText.from_pretrained(folder)
        assert type(model).__name__ == "Qwen2VLForConditionalGeneration"
        prompt, _ = encode([{"role": "user", "content": TEXTS[0]}], processor.tokenizer)
        ids = torch.tensor([prompt])
        pixels, grid = pixel_values(np.zeros((1, 112, 112, 3), dtype=np.uint8), processor)
        more = {}
        if "mm_token_type_ids" in inspect.signature(model.forward).parameters:  # not in transformers 5.0 to 5.2
            more["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
        output = model.generate(input_ids=ids, pixel_values=pixels, image_grid_thw=grid, max_new_tokens=3, **more)
        assert output.shape[1] > ids.shape[1]


def test_weights_follow_the_seed_and_the_global_generator_is_left_alone(tmp_path):
    state = torch.random.get_rng_state()
    sizes = {"base": ModelSize(32, 1), "teacher": ModelSize(32, 1)}
    made = [
        build_demo_models(tmp_path / str(number), TEXTS, seed=seed, **sizes) for number, seed in enumerate((0, 0, 1))
    ]
    assert torch.equal(state, torch.random.get_rng_state())
    weights = [(folders["base"] / "model.safetensors").read_bytes() for folders in made]
    assert weights[0] == weights[1] != weights[2]


def test_tokens_are_those_of_stock_llamafactory(folders):
    from llamafactory.data.template import TEMPLATES

    processor = AutoProcessor.from_pretrained(folders["base"])
    template = TEMPLATES["qwen2_vl"]
    messages = [
        {"role": "user", "content": TEXTS[0]},
        {"role": "assistant", "content": TEXTS[1]},
        {"role": "user", "content": "What does the image show?"},
        {"role": "assistant", "content": "Left kidney"},
    ]
    picture = Image.fromarray(np.zeros((112, 112, 3), dtype=np.uint8))
    expanded = template.mm_plugin.process_messages([dict(m) for m in messages], [picture], [], [], processor)
    pairs = template.encode_multiturn(processor.tokenizer, expanded)
    ids, labels = encode(messages, processor.tokenizer)
    assert template.default_system == SYSTEM
    assert ids == [token for source, target in pairs for token in source + target]
    assert labels == [token for source, target in pairs for token in [-100] * len(source) + target]
