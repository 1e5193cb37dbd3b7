# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

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
