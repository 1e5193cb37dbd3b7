# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rows of a JSON array or a JSONL file, one at a time, whatever the file's size.

The standard library's decoder is fed a window of the file, so memory is bounded by the largest row. It was preferred
to ijson 3.6, whose fast back end was seen to end the whole file at a ``NaN`` (every empty cell that pandas writes), at
an integer over 64 bits and at one byte that is not UTF-8, and to turn lone surrogates into ``?`` without a word. Here
each of these costs one row at most.
"""

import codecs
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .rejects import Reject


WINDOW = 1 << 20  # bytes
LARGEST_ROW = 1 << 25  # characters
_BLANKS = " \t\r\n"


class BrokenFileError(ValueError):
    """The file as a whole cannot be read further; a single bad row never raises this."""


def read_rows(
    path: str | Path, on_bytes: Callable[[int], None] | None = None
) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    """Yields ``(row number from 1, row)``; a row that cannot be one comes as a :class:`Reject`.

    A file that starts with ``[`` is a JSON array, else it has one JSON object a line (the row number is then the
    number among the lines that are not blank).

    Args:
        path: The file, UTF-8 with or without a byte order mark.
        on_bytes: Told how many bytes have been read so far, once a window.

    Raises:
        BrokenFileError: If an array ends early or has a syntax error; the message says after which row.
        FileNotFoundError: If there is no such file.
    """
    with open(path, "rb") as f:
        start = f.read(64).removeprefix(codecs.BOM_UTF8)
        f.seek(0)
        windows = _windows(f, on_bytes)
        rows = _array(windows, path) if start.lstrip().startswith(b"[") else _lines(windows)
        for number, row in enumerate(rows, start=1):
            yield number, row if isinstance(row, dict | Reject) else _not_an_object(row)


def _not_an_object(value: Any) -> Reject:
    return Reject("not_an_object", f"expected an object, found {type(value).__name__}")


def _windows(f: BinaryIO, on_bytes: Callable[[int], None] | None) -> Iterator[str]:
    """Decodes the file; bytes that are not UTF-8 become lone surrogates, so that their row alone is set aside."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    first = True
    while data := f.read(WINDOW):
        text = decoder.decode(data)
        yield text.removeprefix("\ufeff") if first else text
        first = first and not text
        if on_bytes:
            on_bytes(f.tell())
    yield decoder.decode(b"", final=True)


def _lines(windows: Iterator[str]) -> Iterator[Any]:
    """Rows of a JSONL file. Only a line feed ends a line: U+2028 and the like may stand inside a string."""
    rest, skipping = "", False
    for window in windows:
        *lines, rest = (rest + window).split("\n")
        if skipping:
            if not lines:
                rest = ""
                continue
            lines, skipping = lines[1:], False
        yield from map(_line, filter(str.strip, lines))
        if len(rest) > LARGEST_ROW:  # no row, but a file without line feeds: it must not fill the memory
            yield Reject("not_json", f"the line has more than {LARGEST_ROW:,} characters")
            rest, skipping = "", True
    if rest.strip():
        yield _line(rest)


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return Reject("not_json", str(error))


def _array(windows: Iterator[str], path: str | Path) -> Iterator[Any]:
    """Elements of a JSON array."""
    decode = json.JSONDecoder().raw_decode
    buffer, position, number = "", 0, 0
    expected = "["  # what has to come next: "[" once, then "value" and "," in turn
    first = True

    def more(least: int) -> bool:
        """Drops what was used and reads at least ``least`` characters; at the file's end changes nothing: False."""
        nonlocal buffer, position
        parts, size = [], 0
        for window in windows:
            parts.append(window)
            size += len(window)
            if size >= least:
                break
        if size:
            buffer, position = buffer[position:] + "".join(parts), 0
        return size > 0

    while True:
        while position < len(buffer) and buffer[position] in _BLANKS:
            position += 1
        if position == len(buffer):
            if not more(1):
                raise BrokenFileError(f"{path} ends after row {number}, before its closing bracket: is it complete?")
            continue

        character = buffer[position]
        if expected == "value" and character == "]" and first:
            break
        if expected == "value":
            try:
                value, end = decode(buffer, position)
            except (ValueError, RecursionError) as error:
                size = len(buffer) - position
                if size < LARGEST_ROW and more(size):
                    continue
                raise BrokenFileError(f"{path}, row {number + 1} is not valid JSON ({error}). Mend it.") from error
            if isinstance(value, int | float) and len(buffer) - end < 3 and more(1):
                continue  # the number may go on in the next window: "1", "1." and "1e-" all read as 1 so far
            number, position, expected, first = number + 1, end, ",", False
            yield value
        elif character == expected:
            position, expected = position + 1, "value"
        elif expected == "," and character == "]":
            break
        else:
            raise BrokenFileError(f"{path}, after row {number}: expected {expected!r} or ']', found {character!r}.")

    for tail in itertools.chain([buffer[position + 1 :]], windows):
        if tail.strip():
            raise BrokenFileError(f"{path} goes on after its closing bracket: {tail.strip()[:40]!r}. Two files?")
