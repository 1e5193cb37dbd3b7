# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Text for the page: tags become chips, long text is cut and says so, two wordings are compared word by word."""

import re
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from ..utils.boxes import convert_tags


MAX_CHARACTERS = 1200

_TAGGED = re.compile(r"<ref>(?P<ref>.*?)</ref>|<box>(?P<box>.*?)</box>", re.DOTALL)


class Segment(NamedTuple):
    """A stretch of text; ``kind`` is ``text``, ``ref``, ``box``, ``added`` or ``cut``."""

    kind: str
    text: str


def segments(text: Any) -> list[Segment]:
    """Splits a question or answer at its tags; anything but a string is shown as what it is."""
    if not isinstance(text, str):
        return [Segment("cut", "no text" if text is None else f"not text: {type(text).__name__}")]
    if not text.strip():
        return [Segment("cut", "empty")]
    shown = convert_tags(text[:MAX_CHARACTERS], "qwen_vl")
    found, position = [], 0
    for match in _TAGGED.finditer(shown):
        found.append(Segment("text", shown[position : match.start()]))
        found.append(Segment(match.lastgroup, match[match.lastgroup].strip()))
        position = match.end()
    found.append(Segment("text", shown[position:]))
    if len(text) > MAX_CHARACTERS:
        found.append(Segment("cut", f"{len(text) - MAX_CHARACTERS:,} more characters"))
    return [segment for segment in found if segment.text]


def added_words(before: str, after: str) -> list[Segment]:
    """``after`` with the words that ``before`` does not have at that place marked ``added``."""
    old, new = before[:MAX_CHARACTERS].split(), after[:MAX_CHARACTERS].split()
    found: list[Segment] = []
    for kind, _, _, start, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if end > start:
            words = " ".join(new[start:end])
            found.append(Segment("text" if kind == "equal" else "added", words))
    return _spaced(found)


def _spaced(parts: list[Segment]) -> list[Segment]:
    """The parts with a blank between each two."""
    spaced: list[Segment] = []
    for part in parts:
        spaced += [Segment("text", " ")] * bool(spaced) + [part]
    return spaced
