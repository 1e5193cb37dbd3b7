# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Small Qwen2-VL models, saved as Hugging Face folders that stock LLaMA-Factory loads (``template: qwen2_vl``)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qwen2vl import qwen2vl_config, special_ids

from .render import SIZE
from .tokenizer import CHAT_TEMPLATE, train_tokenizer


PATCH, HEAD = 14, 32
MERGE = 1  # a token for each patch: four in one token, as Qwen2-VL has them, are too many for so narrow a model


@dataclass(frozen=True)
class ModelSize:
    """Width and depth of the language model of a small Qwen2-VL; the vision tower is the same in all sizes.

    Attributes:
        hidden: Width, a multiple of 32, the size of a head.
        layers: Layers.
    """

    hidden: int
    layers: int


VISION_WIDTH, VISION_LAYERS = 128, 3


def make_config(size: ModelSize, tokenizer):
    """The ``Qwen2VLConfig`` of a size; image tokens and ends come from the tokenizer."""
    heads = size.hidden // HEAD
    return qwen2vl_config(
        hidden_size=size.hidden,
        layers=size.layers,
        heads=heads,
        kv_heads=heads,
        intermediate_size=3 * size.hidden,
        vocab_size=len(tokenizer),
        tokens=special_ids(tokenizer),
        vision={
            "depth": VISION_LAYERS,
            "embed_dim": VISION_WIDTH,
            "num_heads": VISION_WIDTH // HEAD,
            "mlp_ratio": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
        },
        rope_theta=1e4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )


def make_processor(tokenizer):
    """A ``Qwen2VLProcessor`` that takes pictures of 112 pixels a side as they are, without rescaling."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    tokenizer.chat_template = CHAT_TEMPLATE
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            min_pixels=56 * 56, max_pixels=SIZE * SIZE, patch_size=PATCH, merge_size=MERGE
        ),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=PATCH, merge_size=MERGE),
        chat_template=CHAT_TEMPLATE,
    )


def build_demo_models(
    directory: str | Path, texts: Iterable[str], *, base: ModelSize, teacher: ModelSize, seed: int = 0
) -> dict[str, Path]:
    """Saves an untrained base (the student) and an untrained, larger teacher that share one tokenizer and processor.

    Args:
        directory: The folders ``base`` and ``teacher`` are made in it.
        texts: What the tokenizer is trained on.
        base: Size of the student.
        teacher: Size of the teacher.
        seed: Seed of the weights.

    Returns:
        ``{"base": folder, "teacher": folder}``; each holds configuration, safetensors weights, tokenizer, processor,
        chat template and generation configuration.
    """
    import torch
    from transformers import GenerationConfig, Qwen2VLForConditionalGeneration

    tokenizer = train_tokenizer(texts)
    processor = make_processor(tokenizer)
    folders = {}
    for number, (name, size) in enumerate({"base": base, "teacher": teacher}.items()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + number)
            model = Qwen2VLForConditionalGeneration(make_config(size, tokenizer))
        end = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
        model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end[1], do_sample=False)
        folders[name] = Path(directory) / name
        model.save_pretrained(folders[name])
        processor.save_pretrained(folders[name])
    return folders
