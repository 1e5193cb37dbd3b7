# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Subsets and splits of a ShareGPT file, written as data sets beside it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .reader import read_rows
from .rejects import Reject
from .sharegpt import dataset_info_entry, write_array, write_dataset_info
from .subsets import choose_subset, parts_of, row_keys, split_groups, stratum_of


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
