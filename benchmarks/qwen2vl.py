# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Configurations of small Qwen2-VL and Qwen2.5-VL models, for tests, benchmarks and the miniature."""

from typing import Any


TEXT_TOKENS = {"bos_token_id": "<|endoftext|>", "eos_token_id": "<|im_end|>", "pad_token_id": "<|endoftext|>"}
VISION_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def special_ids(tokenizer) -> dict[str, int]:
    """The ids of a tokenizer's special tokens, by their keys in a configuration."""
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in (TEXT_TOKENS | VISION_TOKENS).items()}


def qwen2vl_config(
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    kv_heads: int,
    intermediate_size: int,
    vocab_size: int,
    tokens: dict[str, int | None],
    vision: dict[str, Any],
    rope_theta: float = 1e6,
    config_class: str = "Qwen2VLConfig",
    **text: Any,
):
    """A configuration whose rotary frequencies are split over time, height and width as in Qwen2-VL, 2 : 3 : 3.

    ``tokens`` are ids as from :func:`special_ids`, ``vision`` keys of the vision tower (its output has the width of
    the language model), ``text`` more keys of the language model. ``tie_word_embeddings`` holds for the whole model.
    """
    import transformers

    half = hidden_size // heads // 2
    spatial = half * 3 // 8
    sections = [half - 2 * spatial, spatial, spatial]
    return getattr(transformers, config_class)(
        text_config={
            "hidden_size": hidden_size,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": intermediate_size,
            "vocab_size": vocab_size,
            "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta, "mrope_section": sections},
            **{key: tokens[key] for key in TEXT_TOKENS if key in tokens},
            **text,
        },
        vision_config={"hidden_size" if config_class == "Qwen2VLConfig" else "out_hidden_size": hidden_size, **vision},
        **{key: tokens[key] for key in VISION_TOKENS if key in tokens},
        **{key: text[key] for key in ("tie_word_embeddings",) if key in text},
    )


def qwen2_5_vl_config(**arguments: Any):
    """As :func:`qwen2vl_config`, for Qwen2.5-VL; ``vision`` holds the tower's own ``hidden_size``."""
    return qwen2vl_config(config_class="Qwen2_5_VLConfig", **arguments)
