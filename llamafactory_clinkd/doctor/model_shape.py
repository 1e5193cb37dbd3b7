# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Parameter counts and sizes of a Qwen2-VL model, from its configuration: the model is built on the meta device."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.io import read_json


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Qwen2-VL model; every attribute that ends in ``parameters`` is a count."""

    hidden: int
    intermediate: int
    layers: int
    kv_width: int
    vocabulary: int
    vision_width: int
    vision_mlp: int
    patch: int
    merge: int
    parameters: int
    layer_parameters: int  # one decoder layer
    merger_parameters: int  # the multi-modal projector
    vision_parameters: int  # the vision tower without the projector
    linear_parameters: int  # weights of the linear layers without the head, which 4-bit and 8-bit quantisation shrinks
    layer_linears: tuple[tuple[int, int], ...]  # (out_features, in_features) of the linear layers of a decoder layer

    @property
    def embedding_parameters(self) -> int:
        """The token embedding, or an untied head."""
        return self.vocabulary * self.hidden

    @property
    def decoder_parameters(self) -> int:
        """Embedding, layers, last norm and head."""
        return self.parameters - self.merger_parameters - self.vision_parameters

    def lora_parameters(self, rank: int) -> int:
        """Adapters of this rank on every linear layer of the decoder (``lora_target: all``, vision tower frozen)."""
        return self.layers * rank * sum(rows + columns for rows, columns in self.layer_linears)

    def image_tokens(self, pixels: int) -> int:
        """Tokens of an image with this many pixels."""
        return max(1, pixels // (self.patch * self.merge) ** 2)


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape of the model that transformers builds from a ``config.json``, nested (``text_config``) or flat.

    Raises:
        ValueError: If it is not a Qwen2-VL configuration.
    """
    if config.get("model_type") != "qwen2_vl":
        raise ValueError(
            f"The plan supports Qwen2-VL only, found model_type {config.get('model_type')!r}. Plan with the Qwen2-VL "
            "of the nearest size, or measure."
        )
    return _build_shape(json.dumps(config, sort_keys=True))


@functools.cache
def _build_shape(config_json: str) -> ModelShape:
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    config = Qwen2VLConfig.from_dict(json.loads(config_json))
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(config)
    model.tie_weights()  # transformers 5.0 does not on this device

    def linears(module: torch.nn.Module) -> list[tuple[int, int]]:
        return [(m.out_features, m.in_features) for m in module.modules() if isinstance(m, torch.nn.Linear)]

    text, vision = config.text_config, config.vision_config
    layer, tower = model.model.language_model.layers[0], model.model.visual
    merger = _count(tower.merger)
    return ModelShape(
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        kv_width=layer.self_attn.k_proj.out_features,
        vocabulary=text.vocab_size,
        vision_width=vision.embed_dim,
        vision_mlp=int(vision.embed_dim * vision.mlp_ratio),
        patch=vision.patch_size,
        merge=vision.spatial_merge_size,
        parameters=_count(model),
        layer_parameters=_count(layer),
        merger_parameters=merger,
        vision_parameters=_count(tower) - merger,
        linear_parameters=sum(rows * columns for rows, columns in linears(model.model)),
        layer_linears=tuple(linears(layer)),
    )


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def load_shape(name_or_path: str) -> ModelShape:
    """The shape of a local model folder, or of a published Qwen2-VL by name. Nothing is downloaded.

    Raises:
        ValueError: If it is neither.
    """
    path = Path(name_or_path).expanduser() / "config.json"
    config = read_json(path) if path.is_file() else known_config(name_or_path)
    if config is None:
        raise ValueError(
            f"{name_or_path!r} is neither a folder with a config.json nor one of Qwen2-VL's sizes "
            f"({', '.join(SIZES)}). Give the folder of the model, or the nearest size."
        )
    return shape_of(config)


def pixel_limits(name_or_path: str) -> tuple[int, int]:
    """Fewest and most pixels of an image that the processor in a local model folder keeps; else no limits."""
    from transformers import AutoImageProcessor

    from ..rope.square import DEFAULT_LIMITS, processor_limits

    folder = Path(name_or_path).expanduser()
    if not any((folder / file).is_file() for file in ("preprocessor_config.json", "processor_config.json")):
        return DEFAULT_LIMITS[:2]
    return processor_limits(AutoImageProcessor.from_pretrained(folder))[:2]


_SIZE_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "tie_word_embeddings",
)  # fmt: skip
SIZES = {
    "2B": (1536, 8960, 28, 12, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
    "72B": (8192, 29568, 80, 64, 8, 152064, False),
}


def known_config(name: str) -> dict[str, Any] | None:
    """The configuration of a published checkpoint such as ``Qwen/Qwen2-VL-7B-Instruct``; None if it is unknown."""
    model = name.rstrip("/").rsplit("/", 1)[-1].lower()
    for size, figures in SIZES.items():
        if f"{model}-".startswith(f"qwen2-vl-{size.lower()}-"):
            return {  # without the values that equal transformers' defaults
                "model_type": "qwen2_vl",
                **dict(zip(_SIZE_KEYS, figures, strict=True)),
                "rms_norm_eps": 1e-06,
                "sliding_window": 32768,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
                "vision_config": {"hidden_size": figures[0]},
            }
    return None
