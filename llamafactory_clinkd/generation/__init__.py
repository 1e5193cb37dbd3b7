# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Generation that pseudo-labels, correction and prediction share.

Public names: :func:`generate_rows`, and :func:`shared_vision_tower` and :func:`undisturbed` for those who call
``model.generate`` themselves.
"""

from .eval_mode import base_model, undisturbed
from .generate import generate_rows, plan_batches
from .shards import UnfinishedError
from .vision import shared_vision_tower


__all__ = ["UnfinishedError", "base_model", "generate_rows", "plan_batches", "shared_vision_tower", "undisturbed"]
