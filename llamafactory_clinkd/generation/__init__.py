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

"""Generation that pseudo-labels, correction and prediction share.

Public names: :func:`generate_rows`, and :func:`shared_vision_tower` and :func:`undisturbed` for those who call
``model.generate`` themselves.
"""

from .parts import UnfinishedError
from .rows import generate_rows, plan_batches
from .shared_vision import shared_vision_tower
from .undisturbed import base_model, undisturbed


__all__ = ["UnfinishedError", "base_model", "generate_rows", "plan_batches", "shared_vision_tower", "undisturbed"]
