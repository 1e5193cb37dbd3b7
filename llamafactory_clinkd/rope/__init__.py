# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rotary positions for Qwen2-VL: MCG-RoPE (ClinKD, section 3.1) and its rivals, bound to one model instance.

The names below are loaded on first use: ``rope.config`` alone needs neither torch nor transformers.
"""

from ..utils.lazy import lazy_names


_HOMES = {
    "apply_rope": "binding",
    "remove_rope": "binding",
    "rope_settings": "binding",
    "mixed_parameters": "mixed",
    "read_mixed": "mixed",
    "write_mixed": "mixed",
    "read_rope_config": "config",
    "write_rope_config": "config",
    "reconcile": "config",
    "square_size": "square",
    "to_square": "square",
}
__all__ = list(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)
