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

"""Which rows are shown: a seeded choice that gives every modality its turn."""

from collections.abc import Callable, Sequence
from typing import Any

from ..run_state import content_hash


def sample_rows(
    rows: Sequence[dict[str, Any]], wanted: int, *, group: Callable[[dict[str, Any]], str], seed: int | str
) -> list[dict[str, Any]]:
    """Up to ``wanted`` rows, one from each group in turn, chosen by a hash of seed and content.

    The choice, and which group has the first turn, depend on the seed, not on the order of the rows nor on how well
    they were answered.
    """
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for row in rows:
        key = content_hash([seed, row.get("id"), row.get("image"), row.get("question"), row.get("annotation")])
        groups.setdefault(group(row), []).append((key, row))
    names = sorted(groups, key=lambda name: content_hash([seed, name]))
    ordered = [sorted(groups[name], key=lambda pair: pair[0]) for name in names]
    turns = [
        members[turn][1]
        for turn in range(max(map(len, ordered), default=0))
        for members in ordered
        if turn < len(members)
    ]
    return turns[:wanted]
