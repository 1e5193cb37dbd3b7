# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""4-bit students on CPU: a layer that has answered once must still pass gradients on when it is trained again.

At its first forward pass in evaluation mode, on a processor with AVX512-BF16, bitsandbytes repacks a ``Linear4bit``
for a product that has no gradient, and never packs it back. A student answers in the middle of its training (a teacher
that shares its base, Reflective Correction, an evaluation), and from then on would learn in its last layer alone.
"""

from typing import Any

from torch import nn


def keep_trainable(model: nn.Module) -> Any:
    """Switches the repacking off in every 4-bit layer of a model that is to be trained; returns the model.

    Args:
        model: As it was loaded. Layers of other kinds, and a layer on a GPU, are as they were.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
    return model
