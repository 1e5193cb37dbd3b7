# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A tiny, randomly initialised Qwen3-VL with a tokenizer trained on given texts, for tests."""

from pathlib import Path

from miniature.tokenizer import train_tokenizer


def build_tiny_qwen3_vl(folder: Path, texts: list[str], *, hidden_size: int, seed: int) -> Path:
    """Saves model, tokenizer and processor to ``folder`` and returns it.

    The vision tower's inner layers feed the first layers of the language model, too (DeepStack).
    """
    import torch
    from transformers import Qwen2VLImageProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    tokenizer = train_tokenizer(texts)
    names = ["<|endoftext|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    pad, end, image, video, start, stop = tokenizer.convert_tokens_to_ids(names)
    spatial = hidden_size // 8 * 3 // 8
    config = Qwen3VLConfig(
        text_config={
            "hidden_size": hidden_size, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": hidden_size // 4, "intermediate_size": 64, "vocab_size": len(tokenizer),
            "max_position_embeddings": 1024, "bos_token_id": pad, "eos_token_id": end, "pad_token_id": pad,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True,
                "mrope_section": [hidden_size // 8 - 2 * spatial, spatial, spatial],
            },
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": hidden_size,
            "deepstack_visual_indexes": [0], "num_position_embeddings": 64,
        },
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=stop,
    )  # fmt: skip
    torch.manual_seed(seed)
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, min_pixels=56 * 56, max_pixels=112 * 112),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=tokenizer.chat_template or "{{ messages }}",
    ).save_pretrained(folder)
    return folder
