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
"""What the teacher is given: the student's batch, with positions that are the teacher's own."""

from typing import Any

import torch


STUDENT_ONLY = ("labels", "rope_deltas", "use_cache", "logits_to_keep", "num_items_in_batch")


def teacher_batch(inputs: dict[str, Any], config: Any, same_positions: bool) -> dict[str, Any]:
    """The teacher's keyword arguments for a batch of the student.

    Args:
        inputs: The student's keyword arguments: ``input_ids`` ``[B, L]``, pixels, grids, ``position_ids``.
        config: The teacher's configuration, which names its image and video tokens.
        same_positions: Whether ``position_ids``, computed for the student, are right for the teacher too.

    Returns:
        Pixels and tokens unchanged; ``position_ids`` only if they are shared, else ``mm_token_type_ids`` ``[B, L]``
        int64 (0 text, 1 image, 2 video) from which the teacher computes its own.
    """
    batch = {key: value for key, value in inputs.items() if key not in STUDENT_ONLY}
    if same_positions or "position_ids" not in batch:
        return batch

    del batch["position_ids"]
    image_token, video_token = getattr(config, "image_token_id", None), getattr(config, "video_token_id", None)
    if image_token is not None and "mm_token_type_ids" not in batch:
        kinds = torch.zeros_like(batch["input_ids"])
        kinds[batch["input_ids"] == image_token] = 1
        if video_token is not None:
            kinds[batch["input_ids"] == video_token] = 2
        batch["mm_token_type_ids"] = kinds
    return batch
