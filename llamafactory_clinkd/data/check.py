# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""`clinkd data check`: finds everything in a data set that would spoil a training, before it starts."""

import itertools
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..utils.io import append_jsonl, atomic_path, iter_jsonl, refuse_link, write_json
from ..utils.row_index import HashIndex
from ..utils.scan_names import bare_names, patient_of, volume_of
from .box_convention import recorded_unit
from .coordinates import IMAGE_MAX_PIXELS, Unit
from .images import RULE, ImageRecord, file_stamp, inspect_images, path_within, relative_path
from .problems import ERRORS, Problem, Reject
from .reader import read_rows
from .row_check import RowCheck, check_row, count_tokens
from .sharegpt import as_list


ROWS_PER_TASK, IMAGES_PER_TASK = 500, 64
MAX_EXAMPLES = 20
OrderedMap = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
SizedRow = tuple[int, Any, list[tuple[int, int]] | None]  # row number, row, width and height of its images


@dataclass
class Check:
    """The result of a check."""

    path: str
    rows: int = 0
    images: int = 0
    tokens_checked: bool = False
    longest: int = 0  # tokens of the longest row
    unread_against: int = 0  # images of the other sets that do not open: compared by path and volume, not by content
    counts: Counter[str] = field(default_factory=Counter)  # problems of each code
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # the first problems of each code
    findings_path: str = ""

    @property
    def errors(self) -> int:
        """Number of problems that spoil a training; the others are warnings."""
        return sum(count for code, count in self.counts.items() if code in ERRORS)

    def as_json(self) -> dict[str, Any]:
        """The machine-readable summary."""
        return asdict(self) | {"counts": dict(self.counts), "errors": self.errors}


def check(
    path: str | Path,
    *,
    image_folder: str | Path | None = None,
    against: Sequence[str | Path] = (),
    model: str | None = None,
    cutoff_len: int = 2048,
    image_max_pixels: int = IMAGE_MAX_PIXELS,
    workers: int | None = None,
    report: str | Path | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Check:
    """Checks a ShareGPT file as :func:`convert` writes it.

    Writes ``<report>.json`` (the :class:`Check`), ``<report>.jsonl`` (every problem) and ``<report>.images.jsonl``,
    a cache: a repeated or interrupted check opens only the images that have changed since.

    Nothing outside ``image_folder`` (``media_dir``; by default the file's folder) is opened. The sets of ``against``
    must share no image, volume or patient with this one. ``model`` is a Qwen2-VL whose tokenizer counts the tokens of
    each row, or None. ``report`` is a path without extension, by default ``<data set>.check``. ``on_progress`` is
    called with the stage (``images`` or ``rows``), the number done and the total.
    """
    path = Path(path)
    folder = Path(image_folder) if image_folder is not None else path.parent
    report = str(report) if report is not None else str(path.with_suffix("")) + ".check"
    progress = on_progress or (lambda *_: None)
    result = Check(str(path), tokens_checked=model is not None, findings_path=str(Path(report + ".jsonl")))

    patients: dict[str, str] = {}
    first_rows, total = _first_rows(path, patients)
    other_images = dict.fromkeys(image for other in against for image in _first_rows(other, patients)[0])
    with (
        _worker_pool(workers or os.cpu_count() or 1) as pool_map,
        atomic_path(result.findings_path) as temporary,
        open(temporary, "w", encoding="utf-8") as f,
    ):
        image_cache = Path(report + ".images.jsonl")
        records = _inspect_images(folder, list(first_rows | other_images), image_cache, pool_map, progress)
        result.images = len(first_rows)
        result.unread_against = sum(not records[image].digest for image in other_images)
        find_leaks = _leak_finder(other_images, records, patients)
        row_of_content, row_of_id = HashIndex(), HashIndex()
        sized_rows = ((number, row, _image_sizes(row, records) if model else None) for number, row in read_rows(path))
        check_rows = partial(_check_rows, model, image_max_pixels, cutoff_len, recorded_unit(path) or "thousandths")
        for checks in pool_map(check_rows, _chunks(sized_rows, ROWS_PER_TASK)):
            for row in checks:
                result.rows += 1
                result.longest = max(result.longest, row.tokens)
                problems = row.problems + _duplicate_problems(row, row_of_content, row_of_id)
                for image in dict.fromkeys(row.images):
                    if first_rows.get(image) == row.number:  # an image is reported once, at the first row that has it
                        record = records[image]
                        faults = {record.fault: record.detail} if record.fault else record.remarks
                        problems += list(faults.items()) + find_leaks(record)
                for code, detail in problems:
                    level = "error" if code in ERRORS else "warning"
                    line = {"code": code, "row": row.number, "id": row.id, "detail": detail, "level": level}
                    result.counts[code] += 1
                    if result.counts[code] <= MAX_EXAMPLES:
                        result.examples.setdefault(code, []).append(line)
                    f.write(json.dumps(line) + "\n")
            progress("rows", result.rows, total)
    write_json(report + ".json", result.as_json())
    return result


def _first_rows(path: str | Path, patients: dict[str, str]) -> tuple[dict[str, int], int]:
    """The first row of each image that is within the folder, and the number of rows; adds the rows' ``patients``."""
    first: dict[str, int] = {}
    number = 0
    for number, row in read_rows(path):
        if not isinstance(row, Reject):
            for image in as_list(row.get("images")):
                with suppress(Reject):  # reported when the rows are checked
                    relative_path(image)
                    first.setdefault(image, number)
                    if row.get("patient") not in (None, ""):
                        patients[image] = str(row["patient"])
    return first, number


def _inspect_images(
    folder: Path, images: list[str], image_cache: Path, pool_map: OrderedMap, progress: Callable[[str, int, int], None]
) -> dict[str, ImageRecord]:
    """The record of each image, from the cache if the file has not changed since."""
    records = {}
    for line in iter_jsonl(refuse_link(image_cache)):
        with suppress(OSError, Reject, TypeError):  # a TypeError is a line of another version
            record = ImageRecord(**line)
            if record.rule == RULE and record.stamp == file_stamp(path_within(folder, record.image)):
                records[record.image] = record
    new_images = [image for image in images if image not in records]
    done = len(images) - len(new_images)
    progress("images", done, len(images))
    unsaved: list[ImageRecord] = []
    for batch in pool_map(partial(inspect_images, folder), _chunks(new_images, IMAGES_PER_TASK)):
        records |= {record.image: record for record in batch}
        unsaved += batch
        done += len(batch)
        progress("images", done, len(images))
        if len(unsaved) >= 50 * IMAGES_PER_TASK or done == len(images):
            append_jsonl(image_cache, [asdict(record) for record in unsaved])
            unsaved = []
    return records


def _image_sizes(row: Any, records: dict[str, ImageRecord]) -> list[tuple[int, int]] | None:
    """Sizes of a row's images, or None if one of them has a fault."""
    images = [None] if isinstance(row, Reject) else as_list(row.get("images"))
    found = [records.get(image) if isinstance(image, str) else None for image in images]
    return [(record.width, record.height) for record in found] if all(r and not r.fault for r in found) else None


def _check_rows(
    model: str | None, max_pixels: int, cutoff_len: int, unit: Unit, rows: list[SizedRow]
) -> list[RowCheck]:
    """Checks rows in a worker process; counts the tokens of those that have sizes and no error."""
    results = []
    for number, row, sizes in rows:
        result = check_row(number, row, unit)
        if sizes is not None and not any(code in ERRORS for code, _ in result.problems):
            result.tokens = count_tokens(model, row["messages"], sizes, max_pixels)
            if result.tokens > cutoff_len:
                result.problems.append(("too_long", f"{result.tokens} tokens, cutoff_len is {cutoff_len}"))
        results.append(result)
    return results


def _duplicate_problems(row: RowCheck, row_of_content: HashIndex, row_of_id: HashIndex) -> list[Problem]:
    """Compares a row with the earlier ones, by hash; an id that names the image repeats by design in Med-GRIT."""
    if row.content_hash:
        if (first := row_of_content.get(row.content_hash)) is not None:
            return [("duplicate_row", f"the same as row {first}")]
        row_of_content.put(row.content_hash, row.number)
    if row.id_hash and not any(row.id in bare_names(image) for image in row.images):
        if (first := row_of_id.get(row.id_hash)) is not None:
            return [("duplicate_id", f"row {first} has this id too")]
        row_of_id.put(row.id_hash, row.number)
    return []


def _leak_finder(
    images: Iterable[str], records: dict[str, ImageRecord], known_patients: dict[str, str]
) -> Callable[[ImageRecord], list[Problem]]:
    """The function that compares an image with ``images``, of the other sets, by path, pixels, volume and patient."""
    images = list(images)
    kinds = (  # what identifies an image: the first that two have in common is reported
        ("leak_image", lambda record: os.path.normpath(record.image), "{} is in the other set"),
        ("leak_image", lambda record: record.digest, "{} equals {} of the other set"),
        ("leak_volume", lambda record: volume_of(record.image), "{} and {} of the other set are slices of {}"),
        (
            "leak_patient",
            lambda record: known_patients.get(record.image) or patient_of(record.image),
            "{} and {} of the other set are of one patient",
        ),
    )
    known = [{identify(records[image]): image for image in images} for _, identify, _ in kinds]

    def find_leaks(record: ImageRecord) -> list[Problem]:
        for (code, identify, text), twins in zip(kinds, known, strict=True):
            if (identity := identify(record)) and identity in twins:
                return [(code, text.format(record.image, twins[identity], identity))]
        return []

    return find_leaks


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    return iter(lambda: list(itertools.islice(iterator, size)), [])


@contextmanager
def _worker_pool(count: int) -> Iterator[OrderedMap]:
    """Yields a ``map`` over ``count`` processes: results in order, at most ``4 * count`` items in flight."""
    if count == 1:
        yield map
        return
    # Not forked: the caller may hold threads and locks.
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield lambda function, items: itertools.chain.from_iterable(
            pool.map(function, some) for some in _chunks(items, 4 * count)
        )
    finally:
        pool.shutdown(cancel_futures=True)
