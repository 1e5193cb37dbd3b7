# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Subsets and splits that are the same on every machine for the same seed.

A row's place in the draw is the SHA-256 of the seed and the row, so nothing depends on a random module, on the number
of processes or on the order of the rows. Rows that are equal are told apart by how many have come before.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from .image_names import volume_of
from .row_check import listed_images


def order_key(seed: int, text: str) -> bytes:
    """Where something stands in the draw of a seed."""
    return hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).digest()


def row_keys(rows: Iterable[Mapping[str, Any]], seed: int) -> list[bytes]:
    """The :func:`order_key` of each row, from its messages and images."""
    before: Counter[str] = Counter()
    keys = []
    for row in rows:
        text = json.dumps([row.get("messages"), row.get("images")], sort_keys=True)
        plain = hashlib.sha256(text.encode()).hexdigest()
        keys.append(order_key(seed, f"{plain} {before[plain]}"))
        before[plain] += 1
    return keys


def choose_subset(keys: Sequence[bytes], size: int, strata: Sequence[Hashable] | None = None) -> list[int]:
    """Indices of ``size`` rows, in the order of the file.

    Args:
        keys: From :func:`row_keys`.
        size: How many; all if there are no more.
        strata: One label a row, such as its modality and task: each label then keeps its share (largest remainders).

    Raises:
        ValueError: If ``size`` is negative.
    """
    if size < 0:
        raise ValueError(f"The size of a subset cannot be negative: {size}.")
    if size >= len(keys):
        return list(range(len(keys)))
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index in range(len(keys)):
        groups[strata[index] if strata is not None else None].append(index)
    shares = _shares({label: len(members) for label, members in groups.items()}, size)
    chosen = []
    for label, members in groups.items():
        chosen += sorted(members, key=keys.__getitem__)[: shares[label]]
    return sorted(chosen)


def _shares(counts: Mapping[Hashable, int], size: int) -> dict[Hashable, int]:
    """Whole numbers in the proportion of ``counts`` whose sum is ``size``."""
    total = sum(counts.values())
    shares = {label: count * size // total for label, count in counts.items()}
    by_remainder = sorted(counts, key=lambda label: (-(counts[label] * size % total), repr(label)))
    for label in by_remainder[: size - sum(shares.values())]:
        shares[label] += 1
    return shares


def stratum_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """Modality and task of a row, from its side columns."""
    return str(row.get("modality")), str(row.get("task"))


def parts_of(row: Mapping[str, Any], by: str) -> list[str]:
    """What must not be on both sides of a split: the row's images or, by ``volume``, their volumes.

    An image that belongs to no volume stands for itself; a row without an image too.

    Raises:
        ValueError: If ``by`` is neither ``image`` nor ``volume``.
    """
    if by not in ("image", "volume"):
        raise ValueError(f"A split is by image or by volume, not by {by!r}.")
    images = [str(image) for image in listed_images(row)]
    if not images:
        return ["row " + json.dumps(row.get("messages"), sort_keys=True)]
    return [(volume_of(image) if by == "volume" else None) or image for image in images]


def split_groups(parts: Sequence[Sequence[str]], share: float, seed: int) -> list[bool]:
    """Tells for each row whether it is on the test side.

    Rows that share a part, directly or through others, stay together. Groups are drawn in the order of their hash
    until the test side has ``share`` of the rows; the group that reaches it goes to the test side as a whole.

    Args:
        parts: From :func:`parts_of`, one list a row.
        share: Of the rows, in (0, 1).
        seed: Of the draw.

    Raises:
        ValueError: If ``share`` is not within (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"The test side's share must be between 0 and 1, not {share}.")
    leader: dict[str, str] = {}

    def find(part: str) -> str:
        while leader.setdefault(part, part) != part:
            leader[part] = part = leader[leader[part]]
        return part

    for row in parts:
        for part in row[1:]:
            first, second = sorted((find(row[0]), find(part)))
            leader[second] = first  # the least name leads: the same whatever the order of the rows
    groups: Counter[str] = Counter(find(row[0]) for row in parts)
    test: set[str] = set()
    reached = 0
    for group in sorted(groups, key=lambda name: order_key(seed, name)):
        if reached >= share * len(parts):
            break
        test.add(group)
        reached += groups[group]
    return [find(row[0]) in test for row in parts]
