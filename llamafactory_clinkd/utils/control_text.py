# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Text that controls a model, a template or a display, and that no training text may have.

``clinkd data convert`` and Reflective Correction use the same check: a row of either is trained on.
"""

import re
import unicodedata

from .boxes import TAGS


_OWN_TAGS = "|".join(re.escape(tag) for tag in TAGS["qwen2_vl"].values())
_SPECIAL_TOKEN = re.compile(rf"(?!{_OWN_TAGS})(?:<\|[^<>|\s]{{1,60}}\|>|<(?:video|audio)>)", re.IGNORECASE)
_FULL_WIDTH = str.maketrans("＜＞｜", "<>|")
_JOINERS = "\u200c\u200d"  # ordinary letters of a word in Persian, Hindi and other scripts
_WHITE = "\t\n\r"


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
