# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Models: the one below PEFT's wrapper, the language model's configuration, training of 4-bit layers."""

from typing import Any

from torch import nn


def unwrap_adapters(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT model; any other model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_config(config: Any) -> Any:
    """The configuration of the language model inside that of a vision-language model."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


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
