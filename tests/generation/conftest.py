# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A tiny random Qwen2-VL with a tokenizer of words, and rows that it can answer; nothing is downloaded."""

import numpy as np
import pytest
import torch
from qwen2vl import qwen2vl_config, special_ids
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration


PATCH, MERGE, GRID = 4, 2, 4  # an image is 4 x 4 patches, 2 x 2 tokens
IMAGE_TOKENS = (GRID // MERGE) ** 2
SPECIALS = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|box_start|>",
    "<|box_end|>",
]
WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="session")
def tokenizer():
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIALS[2:],
        padding_side="left",
    )


def build_model(tokenizer, seed=0):
    torch.manual_seed(seed)
    config = qwen2vl_config(
        hidden_size=32,
        layers=2,
        heads=2,
        kv_heads=1,
        intermediate_size=64,
        vocab_size=len(tokenizer),
        tokens=special_ids(tokenizer),
        rope_theta=1e4,
        vision={
            "depth": 1,
            "embed_dim": 16,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
        },
        tie_word_embeddings=True,
    )
    model = Qwen2VLForConditionalGeneration(config)
    with torch.no_grad():  # wide weights: the answers depend on image and question, and end at different lengths
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5 if "visual" not in name else 0.3)
    return model


@pytest.fixture
def model(tokenizer):
    return build_model(tokenizer).eval()


def make_rows(tokenizer, n, seed=0):
    """Prompts of 1 to 6 words after 0 to 2 images, as LLaMA-Factory's tokenised data set holds them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        images = [rng.normal(size=(GRID * GRID, 3 * 2 * PATCH * PATCH)).tolist() for _ in range((1, 1, 2, 0)[i % 4])]
        image = "<|vision_start|> " + "<|image_pad|> " * IMAGE_TOKENS + "<|vision_end|> "
        words = " ".join(rng.choice(WORDS, size=rng.integers(1, 7)))
        ids = tokenizer(image * len(images) + words)["input_ids"]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [7, 8], "images": images})
    return rows, [f"row-{i:02d}" for i in range(n)]


class Collator:
    """Pads on the left; an image that is no list of patches cannot be read. Takes the images away, as stock does."""

    def __init__(self, side="left"):
        self.side = side

    def __call__(self, features):
        images = [image for feature in features for image in feature.pop("images")]
        for image in images:
            if image == "broken":
                raise OSError("cannot identify image file")
        longest = max(len(feature["input_ids"]) for feature in features)
        pads = [[0] * (longest - len(feature["input_ids"])) for feature in features]
        join = (lambda pad, x: pad + x) if self.side == "left" else (lambda pad, x: x + pad)
        batch = {
            "input_ids": torch.tensor([join(p, f["input_ids"]) for p, f in zip(pads, features, strict=True)]),
            "attention_mask": torch.tensor(
                [join(p, f["attention_mask"]) for p, f in zip(pads, features, strict=True)]
            ),
            "labels": torch.tensor([f["labels"] for f in features]),
        }
        batch["position_ids"] = torch.zeros(
            4, *batch["input_ids"].shape, dtype=torch.long
        )  # for training, and wrong here
        batch["rope_deltas"] = torch.zeros(len(features), 1)
        if images:
            batch["pixel_values"] = torch.tensor(images).flatten(0, 1)
            batch["image_grid_thw"] = torch.tensor([[1, GRID, GRID]] * len(images))
        return batch
