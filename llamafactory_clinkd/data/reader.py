# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Streams the rows of a JSON array or a JSONL file of any size.

The standard library's decoder reads a window of the file, so memory is bounded by the largest row. The fast back end
of ijson 3.6 aborts the whole file at a ``NaN`` (every empty cell that pandas writes), at an integer over 64 bits and
at one byte that is not UTF-8, and silently replaces lone surrogates. Here each of these costs one row at most.
"""

import codecs
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .problems import Reject


WINDOW = 1 << 20  # bytes
LARGEST_ROW = 1 << 25  # characters


class BrokenFileError(ValueError):
    """The file as a whole cannot be read further; a single bad row never raises this."""


def read_rows(
    path: str | Path, on_bytes: Callable[[int], None] | None = None
) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    """Yields ``(row number from 1, row)``; a row that is not a JSON object is a :class:`Reject`.

    A file (UTF-8) that starts with ``[`` is a JSON array, else it has one JSON object per line; blank lines are not
    counted. ``on_bytes`` is called with the number of bytes read so far, once per window. Raises BrokenFileError,
    which names the last good row, if an array ends early or has a syntax error.
    """
    with open(path, "rb") as f:
        start = f.read(64).removeprefix(codecs.BOM_UTF8)
        f.seek(0)
        # Bytes that are not UTF-8 become lone surrogates, so that only their row is rejected.
        windows = codecs.iterdecode(_blocks(f, on_bytes), "utf-8-sig", "surrogateescape")
        rows = _array(windows, path) if start.lstrip().startswith(b"[") else _lines(windows)
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict | Reject):
                row = Reject("not_an_object", f"expected an object, found {type(row).__name__}")
            yield number, row


def _blocks(f: BinaryIO, on_bytes: Callable[[int], None] | None) -> Iterator[bytes]:
    while block := f.read(WINDOW):
        if on_bytes:
            on_bytes(f.tell())
        yield block


def _lines(windows: Iterator[str]) -> Iterator[Any]:
    """Rows of a JSONL file. Only a line feed ends a line: U+2028 and similar characters may occur in a string."""
    rest, skipping = "", False
    for window in windows:
        *lines, rest = (rest + window).split("\n")
        if lines and skipping:
            lines, skipping = lines[1:], False
        yield from map(_line, filter(str.strip, lines))
        if len(rest) > LARGEST_ROW and not skipping:  # not a row but a file without line feeds
            yield Reject("not_json", f"the line has more than {LARGEST_ROW:,} characters")
            skipping = True
        if skipping:
            rest = ""
    if rest.strip():
        yield _line(rest)


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return Reject("not_json", str(error))


def _array(windows: Iterator[str], path: str | Path) -> Iterator[Any]:
    decode = json.JSONDecoder().raw_decode
    buffer, position, number = "", 0, 0
    expected = "["  # the next token: "[" once, then "value" and "," in turn

    def more(least: int) -> bool:
        """Drops decoded text and reads at least ``least`` characters; at the end of the file only returns False."""
        nonlocal buffer, position
        text = ""
        while len(text) < least and (window := next(windows, "")):
            text += window
        if text:
            buffer, position = buffer[position:] + text, 0
        return bool(text)

    while True:
        while position < len(buffer) and buffer[position] in " \t\r\n":
            position += 1
        if position == len(buffer):
            if not more(1):
                raise BrokenFileError(f"{path} ends after row {number}, before its closing bracket: is it complete?")
            continue

        character = buffer[position]
        if character == "]" and (expected == "," or (expected == "value" and not number)):
            break
        if expected == "value":
            try:
                value, end = decode(buffer, position)
            except (ValueError, RecursionError) as error:
                size = len(buffer) - position
                if size < LARGEST_ROW and more(size):
                    continue
                raise BrokenFileError(f"{path}, row {number + 1} is not valid JSON ({error}). Fix it.") from error
            if isinstance(value, int | float) and len(buffer) - end < 3 and more(1):
                continue  # the window may have cut the number: "1", "1." and "1e-" all decode as 1
            number, position, expected = number + 1, end, ","
            yield value
        elif character == expected:
            position, expected = position + 1, "value"
        else:
            raise BrokenFileError(f"{path}, after row {number}: expected {expected!r} or ']', found {character!r}.")

    for tail in itertools.chain([buffer[position + 1 :]], windows):
        if tail.strip():
            raise BrokenFileError(f"{path} continues after its closing bracket: {tail.strip()[:40]!r}. Two files?")
