# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Shapes of the published Qwen2-VL checkpoints, for planning where the hub cannot be reached.

Figures of their ``config.json``; the 7B one is Table A2 of the paper.
"""

import copy
from typing import Any


_VISION = {
    "depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "in_channels": 3, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
_COMMON = {
    "model_type": "qwen2_vl", "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "initializer_range": 0.02,
    "attention_dropout": 0.0, "sliding_window": 32768, "bos_token_id": 151643, "eos_token_id": 151645,
    "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}  # fmt: skip
_TEXT_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "tie_word_embeddings",
)  # fmt: skip
SIZES = {
    "2B": (1536, 8960, 28, 12, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
    "72B": (8192, 29568, 80, 64, 8, 152064, False),
}


def known_config(name: str) -> dict[str, Any] | None:
    """The configuration of a checkpoint by its name, e.g. ``Qwen/Qwen2-VL-7B-Instruct``; None if it is not known.

    Args:
        name: A hub name or anything that ends like one.
    """
    model = name.rstrip("/").rsplit("/", 1)[-1].lower()
    for size, figures in SIZES.items():
        if model == f"qwen2-vl-{size.lower()}" or model.startswith(f"qwen2-vl-{size.lower()}-"):
            text = dict(zip(_TEXT_KEYS, figures, strict=True))
            vision = {**_VISION, "hidden_size": text["hidden_size"]}
            return copy.deepcopy({**_COMMON, **text, "vision_config": vision})
    return None
