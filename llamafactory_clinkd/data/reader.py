# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Streams the rows of a JSON array, of a JSONL file or of one JSON object, of any size.

Memory is bounded by the largest row. The fast back end of ijson 3.6 aborts the whole file at a ``NaN`` (an empty cell
of pandas), an integer over 64 bits or a byte that is not UTF-8, and replaces lone surrogates: here each costs one row.
"""

import codecs
import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..utils.io import unique_keys
from .problems import Reject


WINDOW = 1 << 20  # bytes
LARGEST_ROW = 1 << 25  # characters
LIST = object()  # the value of a member that is a list, before its items
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class BrokenFileError(ValueError):
    """The file as a whole cannot be read further; a single bad row never raises this."""


def read_rows(
    path: str | Path, on_bytes: Callable[[int], None] | None = None
) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    """Yields ``(row number from 1, row)``; a row that is not a JSON object is a :class:`Reject`.

    A file (UTF-8 or UTF-16, perhaps gzipped) that starts with ``[`` is a JSON array, else it has one JSON object per
    line; blank lines are not counted. ``on_bytes`` is called with the number of bytes read so far, once per window.
    Raises BrokenFileError, which names the last good row, if an array ends early or has a syntax error.
    """
    windows = decoded(path, on_bytes)
    first = ""
    while not first.strip() and (window := next(windows, "")):
        first += window
    windows = itertools.chain([first], windows)
    is_array = first.lstrip().startswith("[")
    return numbered((item for _, item in _items(windows, path)) if is_array else _lines(windows))


def numbered(rows: Iterable[Any]) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    """Numbers rows from 1; anything but an object becomes a :class:`Reject`."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict | Reject):
            row = Reject("not_an_object", f"expected an object, found {type(row).__name__}")
        yield number, row


def members(path: str | Path, on_bytes: Callable[[int], None] | None = None) -> Iterator[tuple[str, Any]]:
    """Yields ``(key, value)`` of each member of a file that is one JSON object; of a list LIST, then each item."""
    return _items(decoded(path, on_bytes), path)


def kind_of_members(path: str | Path) -> dict[str, str]:
    """Of each member of such a file: ``list`` (with objects), ``empty`` (another list), ``object`` or ``value``."""
    kinds: dict[str, str] = {}
    for key, value in members(path):
        if key not in kinds:
            kinds[key] = "empty" if value is LIST else "object" if isinstance(value, dict) else "value"
        elif isinstance(value, dict):
            kinds[key] = "list"
    return kinds


def is_object_file(path: str | Path, is_row: Callable[[dict[str, Any]], bool]) -> bool:
    """Whether a file is one JSON object rather than JSONL: its first line is no object, or alone and no row."""
    start = ""
    for window in decoded(path):
        start += window
        if len(start) >= LARGEST_ROW or "\n" in start.lstrip() or start.lstrip()[:1] not in ("", "{"):
            break
    if not start.lstrip().startswith("{"):
        return False
    line, more, rest = start.strip().partition("\n")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return not rest.lstrip().startswith("{")  # a first line that is broken may be followed by rows
    if rest.strip() or not isinstance(row, dict) or is_row(row):
        return False
    values = [value if isinstance(value, list) else [value] for value in row.values()]
    return any(isinstance(item, dict) for value in values for item in value)


def open_binary(path: str | Path) -> BinaryIO:
    """Opens a file for reading bytes; a gzipped one is decompressed."""
    with open(path, "rb") as f:
        gzipped = f.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if gzipped else open(path, "rb")


def decoded(path: str | Path, on_bytes: Callable[[int], None] | None = None) -> Iterator[str]:
    """The text of a file in windows; invalid bytes become lone surrogates, which cost their row only."""
    with open_binary(path) as f:
        start = f.read(4)
        encoding = next((name for bom, name in _BOMS.items() if start.startswith(bom)), "utf-8")
        if encoding == "utf-8" and len(start) >= 2 and 0 in start[:2]:  # UTF-16 without a byte order mark
            encoding = "utf-16-be" if start[0] == 0 else "utf-16-le"
        f.seek(0)
        errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
        try:
            yield from codecs.iterdecode(_blocks(f, on_bytes), encoding, errors)
        except UnicodeDecodeError as error:
            raise BrokenFileError(f"{path} is not valid {encoding}: {error}.") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BrokenFileError(f"{path} is not a whole gzip file ({error}). Is it complete?") from error


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
        return json.loads(line, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        return Reject("not_json", str(error))


def _items(windows: Iterator[str], path: str | Path) -> Iterator[tuple[str, Any]]:
    """``("", item)`` of an array; of an object, ``(key, value)``, and ``(key, item)`` of its lists (see `members`)."""
    buffer, position, number, repeated = "", 0, 0, []

    def members_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Notes a repeated key: an error here would look like a row that the window has cut."""
        try:
            return unique_keys(pairs)
        except ValueError as error:
            repeated.append(str(error))
            return {}

    decode = json.JSONDecoder(object_pairs_hook=members_once).raw_decode

    def more(least: int) -> bool:
        """Drops decoded text and reads at least ``least`` characters; at the end of the file only returns False."""
        nonlocal buffer, position
        text = ""
        while len(text) < least and (window := next(windows, "")):
            text += window
        if text:
            buffer, position = buffer[position:] + text, 0
        return bool(text)

    def peek() -> str:
        """The next character that is not white space."""
        nonlocal position
        while True:
            while position < len(buffer) and buffer[position] in " \t\r\n\ufeff":
                position += 1
            if position < len(buffer):
                return buffer[position]
            if not more(1):
                raise BrokenFileError(f"{path} ends after row {number}, before its closing bracket: is it complete?")

    def value() -> Any:
        nonlocal position
        peek()
        while True:
            repeated.clear()
            try:
                found, end = decode(buffer, position)
            except (ValueError, RecursionError) as error:
                size = len(buffer) - position
                if size < LARGEST_ROW and more(size):
                    continue
                raise BrokenFileError(f"{path}, row {number + 1} is not valid JSON ({error}). Fix it.") from error
            if isinstance(found, int | float) and len(buffer) - end < 3 and more(1):
                continue  # the window may have cut the number: "1", "1." and "1e-" all decode as 1
            position = end
            return Reject("not_json", repeated[0]) if repeated else found

    def take(expected: str) -> str:
        nonlocal position
        if (character := peek()) not in expected:
            raise BrokenFileError(f"{path}, after row {number}: expected {expected[0]!r}, found {character!r}.")
        position += 1
        return character

    def entries(brackets: str, entry: Callable[[], Iterator[tuple[str, Any]]]) -> Iterator[tuple[str, Any]]:
        take(brackets[0])
        closed = peek() == brackets[1] and take(brackets[1])
        while not closed:
            yield from entry()
            closed = take("," + brackets[1]) == brackets[1]

    def array(key: str) -> Iterator[tuple[str, Any]]:
        def item() -> Iterator[tuple[str, Any]]:
            nonlocal number
            found = value()
            number += 1
            yield key, found

        return entries("[]", item)

    def member() -> Iterator[tuple[str, Any]]:
        key = value()
        take(":")
        if peek() == "[":
            yield key, LIST
            yield from array(key)
        else:
            found = value()
            if isinstance(found, Reject):
                raise BrokenFileError(f"{path}, member {key!r}: {found.detail}. Keep one of both.")
            yield key, found

    yield from array("") if peek() == "[" else entries("{}", member)
    for tail in itertools.chain([buffer[position:]], windows):
        if tail.strip():
            raise BrokenFileError(f"{path} continues after its closing bracket: {tail.strip()[:40]!r}. Two files?")
