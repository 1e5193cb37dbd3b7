# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One trained model on every path that computes a position: stock LLaMA-Factory, in this process."""

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from small_run import recipe


VARIANTS = ("mrope", "mcg", "mcg_released", "rope_2d", "rope_mixed")
QUESTION = "Where is the square located in the image?"


def train(workspace: Path, output_dir: Path, callbacks: list[Any] | None = None, **changes: Any) -> Path:
    """Runs a recipe without a teacher through LLaMA-Factory's own entry point; returns its ``output_dir``."""
    from llamafactory.train.tuner import run_exp

    keys = {"ref_model": None, "kd_method": "none", "learning_rate": 1e-2, "freeze_vision_tower": True} | changes
    run_exp(recipe(workspace, output_dir, **keys), callbacks)
    return output_dir


def infer_keys(model: Path, **changes: Any) -> dict[str, Any]:
    """A recipe for chat, API or export of a saved model, without any ClinKD key."""
    keys = {
        "model_name_or_path": str(model),
        "template": "qwen2_vl",
        "infer_dtype": "float32",
        "do_sample": False,
        "max_new_tokens": 8,
    } | changes
    return {key: value for key, value in keys.items() if value is not None}


@contextlib.contextmanager
def recorded_logits(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """The last token's logits ``[B, V]`` of every forward pass in the ``with``."""
    found: list[torch.Tensor] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, output: found.append(output[:, -1].detach().clone()))
    try:
        yield found
    finally:
        handle.remove()


@contextlib.contextmanager
def recorded_pixels() -> Iterator[list[tuple[torch.Tensor, list[list[int]]]]]:
    """Pixels ``[patches, values]`` and grids of every pass through any Qwen2-VL vision tower in the ``with``."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel as Tower

    found: list[tuple[torch.Tensor, list[list[int]]]] = []
    stock = Tower.forward

    def forward(self: Any, hidden_states: torch.Tensor, grid_thw: torch.Tensor, **kwargs: Any) -> Any:
        found.append((hidden_states.detach().float().clone(), grid_thw.tolist()))
        return stock(self, hidden_states, grid_thw, **kwargs)

    Tower.forward = forward
    try:
        yield found
    finally:
        Tower.forward = stock


def chat(engine: Any, image: Path, question: str = QUESTION) -> tuple[str, torch.Tensor]:
    """Asks a ``ChatModel`` greedily; returns its answer and the logits ``[T, V]`` behind each token."""
    with recorded_logits(engine.engine.model) as logits:
        answer = engine.chat([{"role": "user", "content": question}], images=[str(image)])[0].response_text
    return answer, torch.cat(logits)


def ask_api(model: Any, image: Path, question: str = QUESTION) -> dict[str, Any]:
    """Asks LLaMA-Factory's OpenAI-style application around a ``ChatModel``, without a socket; returns the response."""
    from fastapi.testclient import TestClient
    from llamafactory.api.app import create_app

    response = TestClient(create_app(model)).post("/v1/chat/completions", json=api_request(image, question))
    assert response.status_code == 200, response.text
    return response.json()


def api_request(image: Path, question: str = QUESTION) -> dict[str, Any]:
    """An OpenAI chat request with the picture inside."""
    url = "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return {"model": "any", "messages": [{"role": "user", "content": content}], "do_sample": False}


def prompt_of(engine: Any, images: list[Any], question: str = QUESTION) -> list[int]:
    """Token ids of a question as the chat engine writes them, images in front."""
    plugin = engine.template.mm_plugin
    content = "<image>" * question.count("<image>") or "<image>" * len(images)
    content = question if "<image>" in question else content + question
    messages = plugin.process_messages([{"role": "user", "content": content}], images, [], [], engine.processor)
    ids, _ = engine.template.encode_oneturn(engine.tokenizer, [*messages, {"role": "assistant", "content": ""}])
    return ids


def collator_of(engine: Any, model: Any = "engine", **options: Any) -> Any:
    """Stock's SFT collator over an engine's template, tokenizer, processor and model."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask

    return SFTDataCollatorWith4DAttentionMask(
        template=engine.template,
        model=engine.model if model == "engine" else model,
        tokenizer=engine.tokenizer,
        processor=engine.processor,
        label_pad_token_id=-100,
        **options,
    )


def feature(ids: list[int], images: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    """A tokenised training row."""
    return {"input_ids": list(ids), "attention_mask": [1] * len(ids), "labels": list(ids), "images": images} | more


def training_logits(engine: Any, prompt: list[int], answer: list[int], image: Path) -> torch.Tensor:
    """Logits ``[T, V]`` before each token of ``answer`` in a training forward pass through stock's collator."""
    engine.tokenizer.padding_side, side = "right", engine.tokenizer.padding_side
    try:
        batch = collator_of(engine, pad_to_multiple_of=8)([feature([*prompt, *answer], [str(image)])])
    finally:
        engine.tokenizer.padding_side = side
    batch.pop("labels")
    with torch.no_grad():
        logits = engine.model(**batch, use_cache=False).logits[0]
    return logits[len(prompt) - 1 : len(prompt) + len(answer) - 1]


def generated(engine: Any, prompt: list[int], image: Path, **options: Any) -> tuple[list[int], torch.Tensor]:
    """Greedy ids and logits ``[T, V]`` of ``model.generate``."""
    grids = engine.template.mm_plugin.get_mm_inputs([str(image)], [], [], [1], [0], [0], [prompt], engine.processor)
    ids = torch.tensor([prompt])
    result = engine.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **grids,
        do_sample=False,
        max_new_tokens=8,
        return_dict_in_generate=True,
        output_logits=True,
        eos_token_id=engine.template.get_stop_token_ids(engine.tokenizer),
        pad_token_id=engine.tokenizer.pad_token_id,
        **options,
    )
    return result.sequences[0, len(prompt) :].tolist(), torch.cat(result.logits)


def noise_image(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """A picture of random pixels."""
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    Image.fromarray(pixels.to(torch.uint8).numpy()).save(path)
    return path
