# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import inspect

import pytest
import torch
from qwen2vl import qwen2_5_vl_config, qwen2vl_config
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration, Qwen2VLModel

from llamafactory_clinkd.attach.versions import known_problems

from .layouts import batch_of


TAKES_TYPES = "mm_token_type_ids" in inspect.signature(Qwen2VLForConditionalGeneration.forward).parameters
"""Not in transformers 5.0 to 5.2, which find images by their tokens."""
FROM_TOKENS = hasattr(Qwen2VLModel, "compute_3d_position_ids")
"""Whether a position's delta counts from the real tokens; in transformers 5.0 and 5.1 from the padded length."""
STOCK_FRAMES = not any("#45381" in each.problem for each in known_problems())
"""Whether stock's positions of videos in Qwen2-VL and Qwen2.5-VL are right."""
IMAGE, VIDEO, START, END = 60, 61, 62, 63
TOKENS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "rope_theta": 1e4,
    "tokens": TOKENS | {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0},
}


def require_stock_positions(videos=False):
    """Skips a test where the installed transformers cannot compute its reference."""
    if not TAKES_TYPES:
        pytest.skip("stock positions of transformers 5.0 to 5.2 need <|vision_start|>, which the drawn layouts lack")
    if videos and not STOCK_FRAMES:
        pytest.skip("stock positions of videos are wrong in transformers 5.3.0 to 5.5.4 (#45381)")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def qwen2_vl():
    """A random Qwen2-VL of 0.1 M parameters, its weights large enough for positions to show in the logits."""
    torch.manual_seed(0)
    config = qwen2vl_config(vision={"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2}, **SIZES)
    return sharpened(Qwen2VLForConditionalGeneration(config))


@pytest.fixture
def qwen2_5_vl():
    torch.manual_seed(0)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    return sharpened(Qwen2_5_VLForConditionalGeneration(qwen2_5_vl_config(vision=vision, **SIZES)))


def sharpened(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0 if "q_proj" in name or "k_proj" in name or "qkv" in name else 2.0)
    return model.eval()


def inputs_of(rows, seed: int = 0) -> dict:
    """Model inputs for a list of rows: random text, random pixels."""
    generator = torch.Generator().manual_seed(seed)
    batch = batch_of(rows)
    types, mask = batch["mm_token_type_ids"], batch["attention_mask"]
    ids = torch.randint(1, 60, types.shape, generator=generator).masked_fill(mask == 0, 0)
    ids[types == 1], ids[types == 2] = IMAGE, VIDEO
    opens = (types[:, 1:] > 0) & (types[:, :-1] == 0) & (mask[:, :-1] == 1)
    ids[:, :-1][opens] = START  # beam search counts a row's images by it
    inputs = {"input_ids": ids, **{k: v for k, v in batch.items() if v is not None}}
    if not TAKES_TYPES:
        del inputs["mm_token_type_ids"]
    for key, pixels in (("image_grid_thw", "pixel_values"), ("video_grid_thw", "pixel_values_videos")):
        if key in inputs:
            inputs[pixels] = torch.randn(int(inputs[key].prod(1).sum()), 3 * 2 * 14 * 14, generator=generator)
    return inputs
