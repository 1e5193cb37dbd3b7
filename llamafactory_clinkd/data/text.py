# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Cleans text for training: rejects control tokens and rewrites every box to one form.

A box becomes ``<box>(x1,y1),(x2,y2)</box>``, integers in [0, 1000), top left corner first:

===============================================  ===============================================================
in the source                                    outcome
===============================================  ===============================================================
``(12,30),(40,50)`` in tags                      unchanged, character for character
``<box_start>`` (the authors' converter)         read as a tag
``[12,30,40,50]``, ``(12, 30, 40, 50)``, floats  rewritten; thousandths are rounded
all within [0, 1], at least one decimal point    fractions of the image's size: times 1000, rounded, 1.0 -> 999
1000 (the far edge)                              999
outside, reversed, without area, not numbers     the row is rejected
a box without tags                               kept; rescaled if it is made of fractions
===============================================  ===============================================================
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from ..utils.boxes import convert_tags, tags_balanced
from ..utils.control_text import control_character, special_token
from .problems import Reject


Coordinates = Literal["auto", "thousandths", "fractions"]

_AUTHORS_TAGS = re.compile(r"<(/?)(?:(box|ref)_(start|end))>", re.IGNORECASE)
_TAGGED = re.compile(r"(<box>)(.*?)(</box>)", re.DOTALL)
_NUMBER = r"\s*([-+]?(?:\d{1,9}(?:\.\d{0,20})?|\.\d{1,20}))\s*"
_GROUP = re.compile(rf"[(\[]{_NUMBER},{_NUMBER}(?:[)\]]\s*,?\s*[(\[]|,){_NUMBER},{_NUMBER}[)\]]")
_BARE = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,?\s*\({_NUMBER},{_NUMBER}\)")
_CANONICAL = re.compile(r"\((\d{1,3}),(\d{1,3})\),\((\d{1,3}),(\d{1,3})\)", re.ASCII)


def clean_text(text: str, coordinates: Coordinates = "auto") -> str:
    """Returns one question or answer with Qwen-VL's tags and boxes in the form above, or raises :class:`Reject`.

    ``coordinates`` is what the numbers of a box are; ``auto`` decides box by box (see the table).
    """
    check_unicode(text)
    if control := special_token(text) or control_character(text):
        raise Reject("control_token", f"found {control!r}")
    if "<" in text or "＜" in text:
        text = _AUTHORS_TAGS.sub(
            lambda match: f"<{'/' if match[1] or match[3].lower() == 'end' else ''}{match[2].lower()}>", text
        )
        if not tags_balanced(text):
            raise Reject("tags_unbalanced", f"in {_shorten(text)!r}")
        text = convert_tags(text, "qwen_vl")
    elif "." not in text or "(" not in text:
        return text  # neither a tag nor a bare box of fractions

    def rewrite_bare(match: re.Match) -> str:
        return _rewrite(match.groups(), coordinates) if _are_fractions(match.groups(), coordinates) else match[0]

    pieces = _TAGGED.split(text)  # words, <box>, content, </box>, words, ...
    pieces[::4] = [_BARE.sub(rewrite_bare, words) for words in pieces[::4]]
    pieces[2::4] = [_rewrite_tagged(content, coordinates) for content in pieces[2::4]]
    return "".join(pieces)


def check_unicode(text: str) -> None:
    """Raises :class:`Reject` (``bad_text``) for text that UTF-8 cannot hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Reject("bad_text", f"character {error.start} is {text[error.start]!a}") from error


def box_in_thousandths(box: Sequence[float], original: str) -> list[int]:
    """Rounds ``x1, y1, x2, y2`` in thousandths of the image to integers in [0, 1000); ``original`` is for messages."""
    if not all(0 <= value <= 1000 for value in box):
        raise Reject("box_outside", f"{original} is not within [0, 1000]: are these pixels?")
    x1, y1, x2, y2 = rounded = [min(round(value), 999) for value in box]
    if x1 > x2 or y1 > y2:
        raise Reject("box_order", f"{original}: the top left corner has to come first")
    if x1 == x2 or y1 == y2:
        raise Reject("box_empty", f"{original} has no area in thousandths of the image")
    return rounded


def _rewrite_tagged(content: str, coordinates: Coordinates) -> str:
    """The coordinates between two box tags."""
    canonical = _CANONICAL.fullmatch(content)
    if canonical and coordinates != "fractions":
        box_in_thousandths(list(map(int, canonical.groups())), content)
        return content
    plain = unicodedata.normalize("NFKC", content)
    groups = list(_GROUP.finditer(plain))
    if not groups or _GROUP.sub("", plain).strip(" \t\r\n,;"):
        raise Reject("bad_box", f"expected (x1,y1),(x2,y2), found {_shorten(content)!r}")
    return ",".join(_rewrite(match.groups(), coordinates) for match in groups)


def _are_fractions(numbers: tuple[str, ...], coordinates: Coordinates) -> bool:
    if coordinates == "thousandths" or not all(0 <= float(number) <= 1 for number in numbers):
        return False
    return coordinates == "fractions" or any("." in number for number in numbers)


def _rewrite(numbers: tuple[str, ...], coordinates: Coordinates) -> str:
    original = "({},{}),({},{})".format(*numbers)
    scale = 1000 if coordinates == "fractions" or _are_fractions(numbers, coordinates) else 1
    return "({},{}),({},{})".format(*box_in_thousandths([scale * float(number) for number in numbers], original))


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
