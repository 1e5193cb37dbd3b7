# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A Qwen2-VL that loads in a second: a vocabulary of 400, and weights so large that a wrong position shows."""

from pathlib import Path

from miniature.tokenizer import CHAT_TEMPLATE, train_tokenizer
from qwen2vl import qwen2vl_config, special_ids


LARGEST = 252 * 252  # pixels that the processor takes without resampling: less than LLaMA-Factory's default limit
SHARP = 25.0


def build_small_model(folder: Path, texts: list[str], *, seed: int = 0) -> Path:
    """Saves model, tokenizer and processor to ``folder`` and returns it."""
    import torch
    from transformers import Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    tokenizer = train_tokenizer(texts, vocabulary=400)
    config = qwen2vl_config(
        hidden_size=64,  # with the 64 and 128 below: bitsandbytes' blocks, which some CPUs want whole
        layers=2,
        heads=4,
        kv_heads=2,
        intermediate_size=128,
        vocab_size=len(tokenizer),
        tokens=special_ids(tokenizer),
        vision={"depth": 2, "embed_dim": 64, "num_heads": 2, "mlp_ratio": 2},
        rope_theta=1e4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(SHARP if any(part in name for part in ("q_proj", "k_proj", "qkv")) else 8.0)
        model.save_pretrained(folder)
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=LARGEST),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder
