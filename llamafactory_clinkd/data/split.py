# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Subsets and splits of a ShareGPT file, written as data sets beside it."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .image_names import volume_of
from .reader import read_rows
from .rejects import Reject
from .row_check import listed_images
from .sharegpt import dataset_info_entry, write_array, write_dataset_info


def write_subset(path: str | Path, name: str, size: int, *, seed: int = 0, stratify: bool = False) -> int:
    """Writes ``size`` rows of a data set as ``name`` beside it; returns how many.

    Args:
        path: The data set; read twice, never held whole.
        name: Of the subset, in ``dataset_info.json`` and as a file.
        size: How many rows.
        seed: The same seed gives the same rows on every machine.
        stratify: Keep the proportions of modality and task.

    Raises:
        ValueError: If a row cannot be read, or the name is the data set's own.
    """
    strata: list[tuple[str, str]] = []

    def noted(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            strata.append(stratum_of(row))
            yield row

    keys = row_keys(noted(_rows(path)), seed)
    chosen = set(choose_subset(keys, size, strata if stratify else None))
    return _write(path, name, lambda index: index in chosen)


def write_split(
    path: str | Path, train: str, test: str, *, share: float = 0.1, by: str = "volume", seed: int = 0
) -> tuple[int, int]:
    """Divides a data set into ``train`` and ``test`` beside it; no image (or volume) is on both sides.

    Args:
        path: The data set; read three times, never held whole.
        train: Name of the training part.
        test: Name of the test part.
        share: Of the rows that go to the test part, at least.
        by: ``volume`` or ``image``.
        seed: The same seed gives the same split on every machine.

    Returns:
        The number of rows of each part.

    Raises:
        ValueError: If a row cannot be read, a name is the data set's own, the share is not within (0, 1), or nothing
            is left for the training part.
    """
    is_test = split_groups([parts_of(row, by) for row in _rows(path)], share, seed)
    if all(is_test):
        raise ValueError(
            f"Nothing is left of the {len(is_test)} rows of {path} for the training part, because each {by} stays on "
            f"one side. Take a smaller share{', or split by image' if by == 'volume' else ', or more images'}."
        )
    return (
        _write(path, train, lambda index: not is_test[index]),
        _write(path, test, lambda index: is_test[index]),
    )


def _rows(path: str | Path) -> Iterator[dict[str, Any]]:
    for number, row in read_rows(path):
        if isinstance(row, Reject):
            raise ValueError(f"{path}, row {number}: {row}. Convert the file with `clinkd data convert` first.")
        yield row


def _write(path: str | Path, name: str, wanted: Callable[[int], bool]) -> int:
    path = Path(path)
    target = path.with_name(f"{name}.json")
    if target.resolve() == path.resolve():
        raise ValueError(f"{name!r} is the data set itself: give the part another name.")
    count = write_array(target, (row for index, row in enumerate(_rows(path)) if wanted(index)))
    write_dataset_info(path.parent, {name: dataset_info_entry(target.name)})
    return count


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
