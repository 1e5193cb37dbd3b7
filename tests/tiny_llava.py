# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A tiny, randomly initialised LLaVA-1.5, for tests of another architecture than Qwen2-VL."""

from collections.abc import Iterable
from pathlib import Path

from miniature.tokenizer import train_tokenizer


def build_tiny_llava(folder: Path, texts: Iterable[str], seed: int = 0) -> Path:
    """Saves model, tokenizer (1,024 tokens, trained on ``texts``) and processor to ``folder`` and returns it."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = train_tokenizer(texts)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    end, pad, image = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>", "<image>"])
    config = LlavaConfig(
        text_config=LlamaConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            vocab_size=len(tokenizer),
            max_position_embeddings=2048,
            bos_token_id=pad,
            eos_token_id=end,
            pad_token_id=pad,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=56,
            patch_size=14,
        ),
        image_token_index=image,
        image_token_id=image,
        image_seq_length=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder
