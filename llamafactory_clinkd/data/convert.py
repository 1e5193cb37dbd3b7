# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""`clinkd data convert`: any known format to a ShareGPT data set that LLaMA-Factory trains on."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..utils.io import content_hash
from .build_rows import Options, build_rows
from .formats import FORMATS, Format, detect_format
from .problems import CHOICES, Reject
from .reader import BrokenFileError, read_rows
from .sharegpt import ResumableWriter


SAMPLE_SIZE = 100  # rows that determine the format


class StrictError(ValueError):
    """The first bad row under ``strict``."""


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    ``rows_in == converted + rejected``, and ``rows_out == converted`` unless turns are split. ``warnings`` has the
    first hundred of ``warned``. ``resumed_at`` is the number of rows that an interrupted run had finished.
    """

    path: Path
    rejects_path: Path
    format: str
    rows_in: int
    converted: int
    rows_out: int
    rejected: int
    reasons: dict[str, int]
    tasks: dict[str, int]
    modalities: dict[str, int]
    warnings: list[str]
    warned: int
    resumed_at: int

    def as_json(self) -> dict[str, Any]:
        """The same with plain paths."""
        return asdict(self) | {"path": str(self.path), "rejects_path": str(self.rejects_path)}


def convert(
    source: str | Path,
    output: str | Path,
    *,
    name: str | None = None,
    format: str | None = None,
    options: Options | None = None,
    strict: bool = False,
    on_format: Callable[[Format, bool], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Conversion:
    """Converts one file into ``output/<name>.json``, ``output/dataset_info.json`` and ``output/rejects.jsonl``.

    The source is streamed, so memory does not grow with it. After an interruption, the same arguments resume from the
    last checkpoint; the files are then those of an uninterrupted run.

    Args:
        source: A JSON array or JSONL.
        output: Folder of the data set, created if needed.
        name: Name of the data set; by default the source's name without extension.
        format: A key of ``FORMATS``; by default detected from the first rows.
        options: How rows are built. By default scans are read from the source's folder.
        strict: Stop at the first bad row and leave nothing behind.
        on_format: Called with the format and whether it was detected.
        on_bytes: Called with the number of bytes read from the source.

    Raises:
        StrictError: With ``strict``, for the first bad row.
        BrokenFileError: If the file cannot be read to its end; the rows before are kept for a later run.
        ValueError: If the format is unknown or no format fits.
    """
    source = Path(source)
    options = options or Options(image_folder=source.parent)
    name = name or source.stem
    if not re.fullmatch(r"[\w.-]+", name) or name in ("dataset_info", "rejects") or name.startswith("."):
        raise ValueError(
            f"{name!r} is not a valid name of a data set: give one of letters, digits, '-' and '_' with --name."
        )
    if source.resolve() == (Path(output) / f"{name}.json").resolve():
        raise ValueError(f"{source} would be overwritten by its own conversion: give another --name or folder.")
    if format is not None and format not in FORMATS:
        raise ValueError(f"Unknown format {format!r}: expected one of {', '.join(FORMATS)}.")
    source_format = detect_format(_sample(source)) if format is None else FORMATS[format]
    if on_format:
        on_format(source_format, format is None)

    stat = source.stat()
    inputs = [str(source.resolve()), stat.st_size, stat.st_mtime_ns, source_format.name, name, repr(options)]
    # A strict run does not resume a run that may have rejected rows.
    writer = ResumableWriter(output, name, content_hash([*inputs, "strict"] if strict else inputs))
    resumed_at = writer.done
    try:
        for number, row in itertools.islice(read_rows(source, on_bytes), writer.done, None):
            try:
                writer.write(*_convert_row(row, number, source_format, options))
            except Reject as reject:
                if strict and reject.reason not in CHOICES:
                    raise StrictError(f"{source}, row {number} ({_identity(row)!r}): {reject}.") from reject
                writer.reject(number, _identity(row), reject.reason, reject.detail)
    except BaseException as error:
        writer.close(keep=not isinstance(error, StrictError))
        raise
    writer.finish()
    counts = writer.counts
    return Conversion(
        path=writer.path,
        rejects_path=writer.rejects_path,
        format=source_format.name,
        rows_in=writer.done,
        converted=counts["converted"],
        rows_out=counts["rows"],
        rejected=counts["rejected"],
        reasons=_counts_of("reject ", counts),
        tasks=_counts_of("task ", counts),
        modalities=_counts_of("modality ", counts),
        warnings=writer.warnings,
        warned=counts["warnings"],
        resumed_at=resumed_at,
    )


def _convert_row(row: Any, number: int, source_format: Format, options: Options) -> tuple[list[dict], list[str]]:
    if isinstance(row, Reject):
        raise row
    conversation = source_format.parse(row)
    conversation.id = conversation.id or f"row-{number}"
    return build_rows(conversation, options)


def _sample(source: Path) -> Iterator[dict[str, Any]]:
    """The first readable rows; a file that is broken further on raises when it is converted.

    Raises:
        ValueError: If the file has rows and none of them is readable.
    """
    readable, first_reject = 0, None
    try:
        for number, row in read_rows(source):
            if isinstance(row, Reject):
                first_reject = first_reject or f"row {number}: {row}"
                continue
            readable += 1
            yield row
            if readable == SAMPLE_SIZE:
                return
    except BrokenFileError:
        if not readable:
            raise
    if first_reject and not readable:
        raise ValueError(
            f"{source} has no row that can be read; {first_reject}. "
            "Expected a JSON array of objects, or an object a line."
        )


def _identity(row: Any) -> Any:
    """The row's own id, or what comes closest, so that the user finds it."""
    if isinstance(row, dict):
        for field in ("id", "qid", "question_id", "image", "image_name"):
            if isinstance(row.get(field), str | int):
                return row[field]
    return None


def _counts_of(prefix: str, counts: dict[str, int]) -> dict[str, int]:
    selected = {key.removeprefix(prefix): count for key, count in counts.items() if key.startswith(prefix)}
    return dict(sorted(selected.items(), key=lambda item: (-item[1], item[0])))
