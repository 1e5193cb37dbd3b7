# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Parameter counts of a Qwen2-VL model from its configuration; exact (compared with models on the meta device)."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Qwen2-VL model; every property that ends in ``_parameters`` is a count."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    vision_depth: int
    vision_width: int
    vision_mlp: int
    patch: int
    merge: int
    temporal_patch: int
    channels: int

    @property
    def kv_width(self) -> int:
        """Columns of the key projection."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def layer_parameters(self) -> int:
        """One decoder layer: attention with biases on q, k, v; gated MLP; two norms."""
        h, kv = self.hidden, self.kv_width
        return h * (2 * h + 2 * kv) + h + 2 * kv + 3 * h * self.intermediate + 2 * h

    @property
    def embedding_parameters(self) -> int:
        """The token embedding, or the head."""
        return self.vocabulary * self.hidden

    @property
    def head_parameters(self) -> int:
        """What the head adds: nothing if it is tied to the embedding."""
        return 0 if self.tied else self.embedding_parameters

    @property
    def decoder_parameters(self) -> int:
        """Embedding, layers, last norm and head."""
        return self.embedding_parameters + self.layers * self.layer_parameters + self.hidden + self.head_parameters

    @property
    def merger_parameters(self) -> int:
        """The multi-modal projector: norm and two linear layers over merged patches."""
        width = self.vision_width * self.merge**2
        return 2 * self.vision_width + width * width + width + width * self.hidden + self.hidden

    @property
    def vision_parameters(self) -> int:
        """The vision tower without its merger."""
        d, mlp = self.vision_width, self.vision_mlp
        block = 4 * d + (3 * d * d + 3 * d) + (d * d + d) + (2 * d * mlp + mlp + d)
        return self.channels * self.temporal_patch * self.patch**2 * d + self.vision_depth * block

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.decoder_parameters + self.merger_parameters + self.vision_parameters

    @property
    def linear_parameters(self) -> int:
        """Weights of linear layers but for the head: what 4-bit and 8-bit quantisation shrinks."""
        h, kv, d, mlp = self.hidden, self.kv_width, self.vision_width, self.vision_mlp
        width = d * self.merge**2
        decoder = self.layers * (h * (2 * h + 2 * kv) + 3 * h * self.intermediate)
        return decoder + self.vision_depth * (4 * d * d + 2 * d * mlp) + width * width + width * h

    def lora_parameters(self, rank: int) -> int:
        """Adapters of this rank on every linear layer of the decoder (``lora_target: all``, vision tower frozen)."""
        h, kv, i = self.hidden, self.kv_width, self.intermediate
        return self.layers * rank * (2 * (h + h) + 2 * (h + kv) + 3 * (h + i))

    def image_tokens(self, pixels: int) -> int:
        """Tokens of an image of so many pixels."""
        return max(1, pixels // (self.patch * self.merge) ** 2)


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape in a ``config.json``, nested (``text_config``) or flat.

    Raises:
        ValueError: If it is no Qwen2-VL configuration, or lacks a size.
    """
    if config.get("model_type") != "qwen2_vl":
        raise ValueError(
            f"The plan knows Qwen2-VL only, found model_type {config.get('model_type')!r}. Plan with the Qwen2-VL "
            "of the nearest size, or measure."
        )
    text, vision = {**config, **(config.get("text_config") or {})}, config["vision_config"]
    try:
        return ModelShape(
            hidden=text["hidden_size"],
            intermediate=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            vocabulary=text["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            vision_depth=vision["depth"],
            vision_width=vision["embed_dim"],
            vision_mlp=int(vision["embed_dim"] * vision["mlp_ratio"]),
            patch=vision["patch_size"],
            merge=vision["spatial_merge_size"],
            temporal_patch=vision["temporal_patch_size"],
            channels=vision.get("in_channels", vision.get("in_chans", 3)),
        )
    except KeyError as error:
        raise ValueError(f"The configuration lacks {error}: is it the config.json of a Qwen2-VL model?") from error


def load_shape(name_or_path: str) -> ModelShape:
    """The shape of a local model folder, or of a published Qwen2-VL by name. Nothing is downloaded.

    Raises:
        ValueError: If it is neither.
    """
    path = Path(name_or_path).expanduser() / "config.json"
    if path.is_file():
        return shape_of(json.loads(path.read_text(encoding="utf-8")))
    config = known_config(name_or_path)
    if config is None:
        raise ValueError(
            f"{name_or_path!r} is neither a folder with a config.json nor one of Qwen2-VL's sizes "
            f"({', '.join(SIZES)}). Give the folder of the model, or the size that is nearest."
        )
    return shape_of(config)


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
