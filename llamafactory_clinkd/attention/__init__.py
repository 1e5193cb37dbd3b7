# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Attention maps over an image, for models and rope variants side by side (the paper's Figures 5 and 6)."""

from ..utils import lazy_names


_MODULES = {"attention_figure": "figure", "attention_map": "maps"}
__all__ = list(_MODULES)
__getattr__ = lazy_names(__name__, _MODULES)
