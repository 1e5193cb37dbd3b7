# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""`clinkd data check`: everything that would spoil a training, found before it starts."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from ..utils.io import append_jsonl, read_jsonl, write_json
from .image_check import ERRORS, Finding, Picture, examine_pictures, stamp_of
from .image_names import path_within, relative_path, volume_of
from .reader import read_rows
from .rejects import Reject
from .row_check import RowFacts, examine_row, listed_images
from .token_count import IMAGE_MAX_PIXELS, TokenCounter
from .workers import Workers, chunked


ROWS_A_PIECE, IMAGES_A_PIECE = 500, 64
EXAMPLES = 20

_counter: TokenCounter | None = None  # one a worker process


@dataclass
class Check:
    """What a check found. ``counts`` has each code; ``examples`` the first findings of each.

    ``unread_against`` images of the other sets do not open: they were compared by path and volume, not by content.
    """

    path: str
    rows: int = 0
    images: int = 0
    tokens_checked: bool = False
    longest: int = 0
    unread_against: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    findings_path: str = ""

    @property
    def errors(self) -> int:
        """Findings that spoil a training; the others are warnings."""
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

    Writes ``<report>.json`` (the :class:`Check`), ``<report>.jsonl`` (every finding) and ``<report>.images.jsonl``:
    what is known of each picture, so that a check that was interrupted, or is repeated, opens only what changed.

    Args:
        path: The data set.
        image_folder: LLaMA-Factory's ``media_dir``; by default the file's folder. Nothing outside it is opened.
        against: Data sets that must share no image and no volume with this one, in the same image folder.
        model: A Qwen2-VL, whose tokenizer counts; without it token counts are not checked, and the report says so.
        cutoff_len: The recipe's, against which tokens are held.
        image_max_pixels: The recipe's.
        workers: Processes; by default one a core.
        report: Where the three files go, without extension; by default ``<data set>.check`` beside it.
        on_progress: Told what is under way (``images`` or ``rows``), how much is done and how much there is.
    """
    path = Path(path)
    folder = Path(image_folder) if image_folder is not None else path.parent
    report = str(report) if report is not None else str(path.with_suffix("")) + ".check"
    findings_path = Path(report + ".jsonl")
    tell = on_progress or (lambda *_: None)
    result = Check(str(path), tokens_checked=model is not None, findings_path=str(findings_path))

    here, total = _images(path)
    there = dict.fromkeys(image for other in against for image in _images(other)[0])
    count = workers or os.cpu_count() or 1
    findings_path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = findings_path.with_suffix(".jsonl.part")
    with (
        Workers(count, _set_up, (model, image_max_pixels)) as pool,
        open(partial_path, "w", encoding="utf-8") as findings_file,
    ):
        known = _pictures(folder, list(here | there), Path(report + ".images.jsonl"), pool, tell)
        result.images = len(here)
        result.unread_against = sum(not known[image].digest for image in there)
        leaks = _Leaks(there, known)
        seen: dict[int, tuple[int, int]] = {}  # hash of the id -> first row, hash of its content
        contents: dict[int, int] = {}  # hash of the content -> first row
        for facts in _row_facts(path, known, cutoff_len, model is not None, pool):
            for row, tokens in facts:
                result.rows += 1
                result.longest = max(result.longest, tokens)
                findings = row.findings + _duplicates(row, seen, contents)
                for image in dict.fromkeys(row.images):
                    if here.get(image) == row.number:  # a picture is reported once, at the first row that shows it
                        findings += _of_picture(row, known[image]) + leaks.of(row, known[image])
                _note(result, findings, findings_file)
            tell("rows", result.rows, total)

    os.replace(partial_path, findings_path)
    write_json(report + ".json", result.as_json())
    return result


def _set_up(model: str | None, max_pixels: int) -> None:
    global _counter
    _counter = TokenCounter(model, max_pixels) if model else None


def _images(path: str | Path) -> tuple[dict[str, int], int]:
    """Image -> the first row that shows it, for the images that stay within the folder; and the number of rows."""
    first: dict[str, int] = {}
    number = 0
    for number, row in read_rows(path):
        if not isinstance(row, Reject):
            for image in listed_images(row):
                with suppress(Reject):  # reported when the rows are examined
                    relative_path(image)
                    first.setdefault(image, number)
    return first, number


def _pictures(
    folder: Path, images: list[str], cache: Path, pool: Workers, tell: Callable[[str, int, int], None]
) -> dict[str, Picture]:
    """What each image is, from the cache where the file has not changed since."""
    known = {}
    for line in read_jsonl(cache):
        picture = Picture(**line)
        with suppress(OSError, Reject):
            if picture.stamp and picture.stamp == stamp_of(path_within(folder, picture.image)):
                known[picture.image] = picture
    wanted = [image for image in images if image not in known]
    done = len(images) - len(wanted)
    tell("images", done, len(images))
    fresh: list[Picture] = []
    for pictures in pool.map(partial(examine_pictures, folder), chunked(wanted, IMAGES_A_PIECE)):
        known |= {picture.image: picture for picture in pictures}
        fresh += pictures
        done += len(pictures)
        tell("images", done, len(images))
        if len(fresh) >= 50 * IMAGES_A_PIECE or done == len(images):
            append_jsonl(cache, [asdict(picture) for picture in fresh])
            fresh = []
    return known


def _row_facts(
    path: Path, known: dict[str, Picture], cutoff_len: int, with_tokens: bool, pool: Workers
) -> Iterator[list[tuple[RowFacts, int]]]:
    def pieces() -> Iterator[list[tuple[int, Any, list[tuple[int, int]] | None]]]:
        for chunk in chunked(read_rows(path), ROWS_A_PIECE):
            yield [(number, row, _sizes(row, known) if with_tokens else None) for number, row in chunk]

    return pool.map(partial(_examine_rows, cutoff_len), pieces())


def _sizes(row: Any, known: dict[str, Picture]) -> list[tuple[int, int]] | None:
    """Sizes of a row's images, or None if one of them is at fault."""
    listed = [] if isinstance(row, Reject) else listed_images(row)
    pictures = [known.get(image) if isinstance(image, str) else None for image in listed]
    if not all(picture and not picture.fault for picture in pictures):
        return None
    return [(picture.width, picture.height) for picture in pictures]


def _examine_rows(cutoff_len: int, rows: Iterable[tuple[int, Any, list | None]]) -> list[tuple[RowFacts, int]]:
    results = []
    for number, row, sizes in rows:
        facts, tokens = examine_row(number, row), 0
        if sizes is not None and _counter and not any(finding.code in ERRORS for finding in facts.findings):
            tokens = _counter.count(row["messages"], sizes)
            if tokens > cutoff_len:
                detail = f"{tokens} tokens, cutoff_len is {cutoff_len}"
                facts.findings.append(Finding("too_long", number, facts.id, detail))
        results.append((facts, tokens))
    return results


def _duplicates(row: RowFacts, seen: dict[int, tuple[int, int]], contents: dict[int, int]) -> list[Finding]:
    if not row.content_hash:
        return []
    first = contents.setdefault(row.content_hash, row.number)
    if first != row.number:
        return [Finding("duplicate_row", row.number, row.id, f"the same as row {first}")]
    if row.id_hash and not _named_by_image(row):
        first, _ = seen.setdefault(row.id_hash, (row.number, row.content_hash))
        if first != row.number:
            return [Finding("duplicate_id", row.number, row.id, f"row {first} has this id too")]
    return []


def _named_by_image(row: RowFacts) -> bool:
    """Whether the id is the image's name, as in Med-GRIT, where it repeats by design."""
    return any(row.id == PurePosixPath(image).stem for image in row.images)


def _of_picture(row: RowFacts, picture: Picture) -> list[Finding]:
    return [Finding(picture.fault, row.number, row.id, picture.detail)] if picture.fault else []


class _Leaks:
    """The images of the other sets, by path, content and volume."""

    def __init__(self, images: Iterable[str], known: dict[str, Picture]) -> None:
        self._paths = {os.path.normpath(image) for image in images}
        self._digests = {known[image].digest: image for image in images if known[image].digest}
        self._volumes = {volume: image for image in images if (volume := volume_of(image))}

    def of(self, row: RowFacts, picture: Picture) -> list[Finding]:
        if os.path.normpath(picture.image) in self._paths:
            return [Finding("leak_image", row.number, row.id, f"{picture.image} is in the other set")]
        if twin := self._digests.get(picture.digest):
            return [Finding("leak_image", row.number, row.id, f"{picture.image} equals {twin} of the other set")]
        volume = volume_of(picture.image)
        if volume in self._volumes:
            detail = f"{picture.image} and {self._volumes[volume]} of the other set are slices of {volume}"
            return [Finding("leak_volume", row.number, row.id, detail)]
        return []


def _note(result: Check, findings: list[Finding], file: TextIO) -> None:
    for finding in findings:
        line = finding.as_json()
        result.counts[finding.code] += 1
        examples = result.examples.setdefault(finding.code, [])
        if len(examples) < EXAMPLES:
            examples.append(line)
        file.write(json.dumps(line) + "\n")
