# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The plugin in a real vLLM: the log-probabilities of prompts and answers are transformers', row by row."""

import random

import pytest
import torch
from PIL import Image
from tiny_models import build_tiny_qwen2vl
from vllm_server import ask, vllm_python, vllm_server

from llamafactory_clinkd.rope import apply_rope, read_rope_config, to_square, write_rope_config
from llamafactory_clinkd.rope.position_file import read_image_pixels
from llamafactory_clinkd.rope.saved_positions import write_mark


ROWS, ANSWER = 20, 6
PIXELS = (56 * 56, 200 * 200)
SAVED = {
    "mrope": {"variant": "mrope", "image_square": True},
    "mcg": {"variant": "mcg", "alpha_h": 2, "alpha_w": 1, "gap": 2, "image_square": True},
    "mcg_released": {"variant": "mcg_released", "gap": 2, "image_square": False},
    "rope_2d": {"variant": "rope_2d", "image_square": True},
}


def rows():
    """Questions of several lengths about pictures that are mostly not square, from a fixed seed."""
    rng = random.Random(5)
    for number in range(ROWS):
        size = rng.randrange(60, 260), rng.randrange(60, 260)
        small = Image.frombytes("RGB", (8, 8), rng.randbytes(192))
        words = " ".join(
            rng.choices(["where", "is", "the", "left", "kidney", "lesion", "scan", "shown"], k=3 + number)
        )
        yield f"{words}?", small.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    vllm_python()
    folder = build_tiny_qwen2vl(tmp_path_factory.mktemp("model"), hidden_size=128)
    write_mark(folder)
    return folder


def seen(processor, image, settings, pixels):
    """The picture that the model sees."""
    if not settings["image_square"]:
        return image
    limits = processor.image_processor.size
    low, high = max(pixels[0], limits["shortest_edge"]), min(pixels[1], limits["longest_edge"])
    return to_square(image, min_pixels=low, max_pixels=high)


def prompt_inputs(processor, question, image):
    """What transformers' own processor makes of a row."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=[text], images=[image], return_tensors="pt")


@pytest.mark.long
@pytest.mark.parametrize("variant", SAVED)
def test_log_probabilities_are_those_of_transformers(model_folder, tmp_path, variant):
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    write_rope_config(model_folder, SAVED[variant], image_pixels=PIXELS)
    settings, pixels = read_rope_config(model_folder), read_image_pixels(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)
    drawn = [(question, image, seen(processor, image, settings, pixels)) for question, image in rows()]
    with vllm_server(model_folder, tmp_path) as url:
        options = {"max_tokens": ANSWER, "temperature": 0, "ignore_eos": True, "logprobs": True, "prompt_logprobs": 0}
        options |= {"return_tokens_as_token_ids": True}
        replies = [ask(url, question, picture, **options) for question, _, picture in drawn]
        unprepared = [ask(url, question, image, **options) for question, image, _ in drawn]

    model = Qwen2VLForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float32).eval()
    stock_model = Qwen2VLForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float32).eval()
    apply_rope(model, **{key: value for key, value in settings.items() if key != "image_square"})
    largest = largest_from_stock = 0.0
    for (question, _, picture), reply, other in zip(drawn, replies, unprepared, strict=True):
        # Pillow's versions round a resampled picture differently, so the texts' log-probabilities are not compared.
        assert tokens_of(other) == tokens_of(reply)
        inputs = prompt_inputs(processor, question, picture)
        prompt = inputs["input_ids"][0].tolist()
        assert tokens_of(reply) == prompt[1:]
        answer = reply["choices"][0]["logprobs"]["content"]
        new = torch.tensor([[int(token["token"].removeprefix("token_id:")) for token in answer]])
        inputs["input_ids"] = torch.cat((inputs["input_ids"], new), 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(types, (0, new.shape[1]))
        served = [next(iter(position.values()))["logprob"] for position in reply["prompt_logprobs"][1:]]
        served = torch.tensor(served + [token["logprob"] for token in answer])
        largest = max(largest, (served - own_logprobs(model, inputs)).abs().max().item())
        from_stock = (served - own_logprobs(stock_model, inputs)).abs().max().item()
        largest_from_stock = max(largest_from_stock, from_stock)
    print(f"\n{variant}: largest difference {largest:.2e}, from stock positions {largest_from_stock:.2e}")
    assert largest < 1e-3
    assert variant == "mrope" or largest_from_stock > 2e-3  # else the test could not tell the positions apart


def tokens_of(reply):
    """The ids of a prompt but for the first one."""
    return [int(next(iter(position))) for position in reply["prompt_logprobs"][1:]]


def own_logprobs(model, inputs):
    with torch.no_grad():
        logprobs = model(**inputs).logits[0].log_softmax(-1)
    return logprobs[:-1].gather(1, inputs["input_ids"][0, 1:, None])[:, 0]
