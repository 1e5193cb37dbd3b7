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

"""Rotary positions for Qwen2-VL: MCG-RoPE (ClinKD, section 3.1) and its rivals, bound to one model instance.

The names below are loaded on first use: ``rope.config`` alone needs neither torch nor transformers.
"""

from ..lazy import lazy_names


_HOMES = {
    "apply_rope": "qwen2_vl",
    "remove_rope": "qwen2_vl",
    "rope_settings": "qwen2_vl",
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
