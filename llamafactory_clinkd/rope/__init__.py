# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rotary positions for Qwen2-VL: MCG-RoPE (ClinKD, section 3.1) and other variants, bound to one model instance."""

from ..utils import lazy_names


_MODULES = {
    "apply_rope": "binding",
    "remove_rope": "binding",
    "rope_settings": "binding",
    "mixed_parameters": "mixed",
    "read_mixed": "mixed",
    "write_mixed": "mixed",
    "read_rope_config": "position_file",
    "write_rope_config": "position_file",
    "reconcile": "saved_positions",
    "square_size": "square",
    "to_square": "square",
}
__all__ = list(_MODULES)
__getattr__ = lazy_names(__name__, _MODULES)
