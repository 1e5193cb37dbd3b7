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
from .reader import BrokenFileError, read_rows
from .rejects import CHOICES, Reject
from .sharegpt import RowWriter


SAMPLE = 100  # rows that tell the format


class StrictError(ValueError):
    """The first bad row under ``strict``."""


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    ``rows_in == converted + rejected``, and ``rows_out == converted`` unless turns are split. ``warnings`` has the
    first hundred of ``warned``. ``resumed_at`` is the number of rows that an interrupted run had dealt with.
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

    The source is streamed: memory does not grow with it. Interrupted and run again with the same arguments, it goes on
    where the last checkpoint was; the files are then those of an uninterrupted run.

    Args:
        source: A JSON array or JSONL.
        output: Folder of the data set, created if needed.
        name: Of the data set; the source's name without extension by default.
        format: A key of ``FORMATS``; worked out from the first rows by default.
        options: How rows are made. Scans are looked for beside the source unless ``image_folder`` says otherwise.
        strict: Stop at the first bad row and leave nothing behind.
        on_format: Told the format, and whether it was worked out.
        on_bytes: Told how many bytes of the source have been read.

    Raises:
        StrictError: With ``strict``, for the first bad row.
        BrokenFileError: If the file itself cannot be read to its end; the rows before are kept for a later run.
        ValueError: If the format is unknown or no format fits.
    """
    source = Path(source)
    options = options or Options(image_folder=source.parent)
    name = name or source.stem
    if not re.fullmatch(r"[\w.-]+", name) or name in ("dataset_info", "rejects") or name.startswith("."):
        raise ValueError(f"{name!r} is no name for a data set: give one of letters, digits, '-' and '_' with --name.")
    if source.resolve() == (Path(output) / f"{name}.json").resolve():
        raise ValueError(f"{source} would be overwritten by its own conversion: give another --name or folder.")
    kind = _format(source, format)
    if on_format:
        on_format(kind, format is None)

    stat = source.stat()
    work = [str(source.resolve()), stat.st_size, stat.st_mtime_ns, kind.name, name, repr(options)]
    signature = content_hash([*work, "strict"] if strict else work)  # what was rejected before would go unsaid
    writer = RowWriter(output, name, signature)
    resumed_at = writer.done
    try:
        for number, row in itertools.islice(read_rows(source, on_bytes), writer.done, None):
            try:
                rows, notes = _converted(row, number, kind, options)
            except Reject as reject:
                if strict and reject.reason not in CHOICES:
                    raise StrictError(f"{source}, row {number} ({_identity(row)!r}): {reject}.") from reject
                writer.reject(number, _identity(row), reject.reason, reject.detail)
            else:
                writer.write(rows, notes)
    except BaseException as error:
        writer.close(keep=not isinstance(error, StrictError))
        raise
    writer.finish()
    counts = writer.counts
    return Conversion(
        path=writer.path,
        rejects_path=writer.rejects_path,
        format=kind.name,
        rows_in=writer.done,
        converted=counts["converted"],
        rows_out=counts["rows"],
        rejected=counts["rejected"],
        reasons=_counted(counts, "reject "),
        tasks=_counted(counts, "task "),
        modalities=_counted(counts, "modality "),
        warnings=writer.warnings,
        warned=counts["warnings"],
        resumed_at=resumed_at,
    )


def _converted(row: Any, number: int, kind: Format, options: Options) -> tuple[list[dict[str, Any]], list[str]]:
    if isinstance(row, Reject):
        raise row
    conversation = kind.parse(row)
    conversation.id = conversation.id or f"row-{number}"
    return build_rows(conversation, options)


def _format(source: Path, name: str | None) -> Format:
    if name is not None:
        if name not in FORMATS:
            raise ValueError(f"Unknown format {name!r}: expected one of {', '.join(FORMATS)}.")
        return FORMATS[name]
    return detect_format(_sample(source))


def _sample(source: Path) -> Iterator[dict[str, Any]]:
    """The first readable rows; a file that breaks off later is dealt with when it is converted.

    Raises:
        ValueError: If the file has rows and none of them can be read.
    """
    found, fault = 0, None
    try:
        for number, row in read_rows(source):
            if isinstance(row, Reject):
                fault = fault or f"row {number}: {row}"
                continue
            found += 1
            yield row
            if found == SAMPLE:
                return
    except BrokenFileError:
        if not found:
            raise
    if fault and not found:
        raise ValueError(
            f"{source} has no row that can be read; {fault}. Expected a JSON array of objects, or an object a line."
        )


def _identity(row: Any) -> Any:
    """The row's own name, for the user who looks for it."""
    if isinstance(row, dict):
        for field in ("id", "qid", "question_id", "image", "image_name"):
            if isinstance(row.get(field), str | int):
                return row[field]
    return None


def _counted(counts: dict[str, int], prefix: str) -> dict[str, int]:
    found = {key.removeprefix(prefix): count for key, count in counts.items() if key.startswith(prefix)}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
