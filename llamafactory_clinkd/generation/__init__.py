# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Generation that pseudo-labels, correction and prediction share.

Public names: :func:`generate_rows`; and, for code that calls ``model.generate`` itself, :func:`shared_vision_tower`
and :func:`preserve_training_state`.
"""

from .eval_mode import base_model, preserve_training_state
from .generate import generate_rows, plan_batches
from .shards import UnfinishedError
from .vision import shared_vision_tower


__all__ = [
    "UnfinishedError",
    "base_model",
    "generate_rows",
    "plan_batches",
    "shared_vision_tower",
    "preserve_training_state",
]
