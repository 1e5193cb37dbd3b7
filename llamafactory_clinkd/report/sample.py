# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which rows are shown: a seeded choice that gives every modality its turn."""

from collections.abc import Callable, Sequence
from typing import Any

from ..utils.io import content_hash


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
