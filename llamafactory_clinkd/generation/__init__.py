# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Generation for pseudo-labels, correction and prediction: :func:`generate_rows`, and its building blocks."""

from .decode import preserve_training_state
from .generate import generate_rows, plan_batches
from .shards import UnfinishedError


__all__ = ["UnfinishedError", "generate_rows", "plan_batches", "preserve_training_state"]
