# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Seeded subsets and splits of a ShareGPT file, written as data sets beside it.

The same seed gives the same rows on every machine, in any order of the file, which is never held in memory.
"""

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..utils.io import file_lock
from ..utils.scan_names import patient_of, volume_of
from .box_convention import BOXES_KEY, recorded_unit
from .problems import Reject
from .reader import read_rows
from .sharegpt import as_list, check_name, dataset_info_entry, write_array, write_dataset_info


def write_subset(path: str | Path, name: str, size: int, *, seed: int = 0, stratify: bool = False) -> int:
    """Writes ``size`` rows as ``name`` beside the data set, with ``stratify`` in proportion; returns how many."""
    strata = [stratum_of(row) for row in _rows(path)] if stratify else None
    chosen = set(choose_subset(row_keys(_rows(path), seed), size, strata))
    return _write(path, name, lambda index: index in chosen)


def write_split(
    path: str | Path, train: str, test: str, *, share: float = 0.1, by: str = "volume", seed: int = 0
) -> tuple[int, int]:
    """Splits a data set into ``train`` and ``test`` beside it; returns the number of rows of each.

    No image, volume or patient (``by``) is in both; ``share`` is the minimal share of the test set.
    """
    for name in (train, test):
        check_name(name)
    is_test = split_groups([groups_of(row, by) for row in _rows(path)], share, seed)
    if all(is_test):
        raise ValueError(
            f"Nothing is left of the {len(is_test)} rows of {path} for training, because each {by} stays on "
            f"one side. Take a smaller share{', or split by image' if by != 'image' else ', or more images'}."
        )
    return _write(path, train, lambda index: not is_test[index]), _write(path, test, is_test.__getitem__)


def _rows(path: str | Path) -> Iterator[dict[str, Any]]:
    for number, row in read_rows(path):
        if isinstance(row, Reject):
            raise ValueError(f"{path}, row {number}: {row}. Convert the file with `clinkd data convert` first.")
        yield row


def _write(path: str | Path, name: str, selected: Callable[[int], bool]) -> int:
    check_name(name)
    path = Path(path)
    target = path.with_name(f"{name}.json")
    if target.resolve() == path.resolve():
        raise ValueError(f"{name!r} is the data set itself: choose another name.")
    count = write_array(target, (row for index, row in enumerate(_rows(path)) if selected(index)))
    unit = recorded_unit(path)
    entry = dataset_info_entry(target.name) | ({BOXES_KEY: unit} if unit else {})
    with file_lock(path.parent / ".clinkd.lock", wait=True):
        write_dataset_info(path.parent, {name: entry})
    return count


def order_key(seed: int, text: str) -> bytes:
    """The sort key of ``text`` in the order that ``seed`` draws: SHA-256 of both."""
    return hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).digest()


def row_keys(rows: Iterable[Mapping[str, Any]], seed: int) -> list[bytes]:
    """The :func:`order_key` of each row, from its messages, its images and the number of equal rows before it."""
    keys, occurrences = [], Counter()
    for row in rows:
        text = json.dumps([row.get("messages"), row.get("images")], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        keys.append(order_key(seed, f"{digest} {occurrences[digest]}"))
        occurrences[digest] += 1
    return keys


def choose_subset(keys: Sequence[bytes], size: int, strata: Sequence[Hashable] | None = None) -> list[int]:
    """Indices of ``size`` rows (all if there are fewer), in the order of the file.

    ``keys`` come from :func:`row_keys`. ``strata`` holds one label per row, such as its modality and task; each label
    then keeps its share, by largest remainders. A negative ``size`` is a ValueError.
    """
    if size < 0:
        raise ValueError(f"The size of a subset cannot be negative: {size}.")
    total = len(keys)
    if size >= total:
        return list(range(total))
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, label in enumerate([None] * total if strata is None else strata):
        members[label].append(index)
    quotas = {label: len(indices) * size // total for label, indices in members.items()}
    by_remainder = sorted(members, key=lambda label: (-(len(members[label]) * size % total), repr(label)))
    for label in by_remainder[: size - sum(quotas.values())]:
        quotas[label] += 1
    chosen = [sorted(indices, key=keys.__getitem__)[: quotas[label]] for label, indices in members.items()]
    return sorted(itertools.chain.from_iterable(chosen))


def stratum_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """Modality and task of a row, from its side columns."""
    return str(row.get("modality")), str(row.get("task"))


def groups_of(row: Mapping[str, Any], by: str) -> list[str]:
    """What must not be on both sides of a split: the row's images or, by ``volume`` or ``patient``, whose they are.

    Raises:
        ValueError: If ``by`` is none of these, or the patient of a row is not known.
    """
    if by not in ("image", "volume", "patient"):
        raise ValueError(f"A split is by image, by volume or by patient, not by {by!r}.")
    images = [str(image) for image in as_list(row.get("images"))]
    if by == "patient":
        known = row.get("patient")
        patients = [known] if known not in (None, "") else [patient_of(image) for image in images]
        if not patients or None in patients:
            raise ValueError(
                f"The patient of the row {str(row.get('id'))[:60]!r} is not known: it has no column `patient`, and "
                "its image is neither from DICOM nor named as in SA-Med2D. Convert with --patient-column, or split by "
                "volume."
            )
        return [str(patient) for patient in patients]
    if not images:
        return ["row " + json.dumps(row.get("messages"), sort_keys=True)]
    return [(volume_of(image) if by == "volume" else None) or image for image in images]


def split_groups(groups: Sequence[Sequence[str]], share: float, seed: int) -> list[bool]:
    """For each row, whether it is in the test set, given its groups (:func:`groups_of`).

    Rows that have a group in common, directly or through other rows, stay together. These clusters are drawn in the
    order of their hash until the test set has ``share`` of the rows, which has to be within (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"The share of the test set must be between 0 and 1, not {share}.")
    parent: dict[str, str] = {}  # union-find over the groups

    def root(group: str) -> str:
        while parent.setdefault(group, group) != group:
            parent[group] = group = parent[parent[group]]
        return group

    for row in groups:
        for group in row[1:]:
            first, second = sorted((root(row[0]), root(group)))
            parent[second] = first  # the least name is the root, whatever the order of the rows
    sizes: Counter[str] = Counter(root(row[0]) for row in groups)
    order = sorted(sizes, key=lambda cluster: order_key(seed, cluster))
    rows_before = itertools.accumulate((sizes[cluster] for cluster in order), initial=0)
    test = {cluster for cluster, rows in zip(order, rows_before, strict=False) if rows < share * len(groups)}
    return [root(row[0]) in test for row in groups]
