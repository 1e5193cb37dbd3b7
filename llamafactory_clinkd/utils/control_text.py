# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Text that is not content: special tokens and control characters, which no training text may have, and reasoning.

``clinkd data convert`` and Reflective Correction use the same check: a row of either is trained on.
"""

import re
import unicodedata
from typing import NamedTuple

from .boxes import TAGS


_OWN_TAGS = "|".join(re.escape(tag) for tag in TAGS["qwen2_vl"].values())
_SPECIAL_TOKEN = re.compile(rf"(?!{_OWN_TAGS})(?:<\|[^<>|\s]{{1,60}}\|>|<(?:video|audio)>)", re.IGNORECASE)
_FULL_WIDTH = str.maketrans("＜＞｜", "<>|")
_JOINERS = "\u200c\u200d"  # ordinary letters of a word in Persian, Hindi and other scripts
_WHITE = "\t\n\r"
_THOUGHT = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|seed:think)"
_REASONING = re.compile(
    rf"(?P<open><{_THOUGHT}\b[^<>]*>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>"
    r"|<\|channel\|>(?!final\b)\w+)"
    rf"|(?P<close></{_THOUGHT}\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>|<\|channel\|>final)",
    re.IGNORECASE,
)


def special_token(text: str) -> str | None:
    """The first special token of a model (``<|endoftext|>``, ``<|image_pad|>``) or media placeholder, if any.

    The tags of boxes and references are none, and ``<image>`` is none: it stands in every question.
    """
    found = _SPECIAL_TOKEN.search(text.translate(_FULL_WIDTH))
    return text[found.start() : found.end()] if found else None


def control_character(text: str, *, joiners: bool = True) -> str | None:
    """The first control character, if any: NUL, zero-width and bidirectional marks, half of a surrogate pair.

    Tab and line ends are none. ``joiners`` says whether the zero-width joiner and non-joiner are allowed.
    """
    allowed = _WHITE + (_JOINERS if joiners else "")
    for character in text if not text.isascii() or not text.isprintable() else "":
        if character not in allowed and unicodedata.category(character) in ("Cc", "Cf", "Cs"):
            return character
    return None


class Outside(NamedTuple):
    """The text outside all reasoning blocks."""

    text: str
    has_reasoning: bool
    is_open: bool  # whether a block's end is missing


def drop_reasoning(content: str) -> str:
    """The text outside all reasoning blocks; see :func:`outside_reasoning`."""
    return outside_reasoning(content).text


def outside_reasoning(content: str) -> Outside:
    """Splits off the reasoning blocks, which may be nested.

    Without its end, a block reaches to the end of the text; without its start, from the beginning of the text.
    """
    kept, depth, position = [], 0, 0
    for tag in _REASONING.finditer(content):
        if tag["open"]:
            if depth == 0:
                kept.append(content[position : tag.start()])
            depth += 1
        elif depth <= 1:
            kept, depth = kept if depth else [], 0
        else:
            depth -= 1
        position = tag.end()
    return Outside("".join(kept) + ("" if depth else content[position:]), position > 0, depth > 0)
