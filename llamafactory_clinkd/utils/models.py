# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Models: the one below PEFT's wrapper, the language model's configuration, 4-bit layers, weights that are NaN."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from .io import read_json


def unwrap_adapters(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT model; any other model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_config(config: Any) -> Any:
    """The configuration of the language model inside that of a vision-language model."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def one_vocab_size(model: nn.Module) -> Any:
    """Takes ``vocab_size`` off a configuration whose language model has its own; returns the model.

    Stock sets it there when it adds rows to the embedding. PEFT then looks for it in the saved configuration too,
    which has none, and no adapter of a vision-language model can be saved.
    """
    if text_config(model.config) is not model.config:
        vars(model.config).pop("vocab_size", None)
    return model


def keep_trainable(model: nn.Module) -> Any:
    """Switches the CPU repacking off in every 4-bit layer of a model that is to be trained; returns the model.

    At its first forward pass in evaluation mode, on a CPU with AVX512-BF16, bitsandbytes repacks a ``Linear4bit`` for
    a product without a gradient, and never unpacks it. A student is evaluated in the middle of its training (its
    teacher shares its base, or it generates); from then on only its last layer would learn.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
    return model


def require_finite_weights(model: nn.Module, name: str) -> Any:
    """Returns the ``model``; ValueError with its ``name`` and the parameter's if a weight is NaN or infinite.

    Quantised weights are not looked at; of partitioned ones (ZeRO-3) each rank looks at its own part.
    """
    damaged = [each for each, parameter in model.named_parameters() if not _is_finite(parameter)]
    if damaged:
        more = f" and {len(damaged) - 1} more parameters" if len(damaged) > 1 else ""
        raise ValueError(
            f"The model {name} has NaN or infinite weights in {damaged[0]}{more}. Expected finite numbers: take a "
            "checkpoint from before the training diverged, or copy or download the model's files again."
        )
    return model


def missing_shards(index: Path) -> list[str]:
    """The files that the index of a model in several files names and that are not beside it."""
    names = set(read_json(index)["weight_map"].values())
    return sorted(name for name in names if not (index.parent / name).is_file())


def _is_finite(parameter: torch.Tensor) -> bool:
    if hasattr(parameter, "quant_state"):  # 4-bit numbers, which stock stores in a tensor of a floating dtype
        return True
    weight = getattr(parameter, "ds_tensor", parameter).detach()
    if weight.numel() == 0 or weight.is_meta or not weight.is_floating_point() or weight.itemsize < 2:
        return True
    return bool(torch.stack(torch.aminmax(weight)).isfinite().all())  # without a copy of the weight's size
