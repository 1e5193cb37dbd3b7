# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Cleans text for training: rejects control tokens and rewrites every box to one form.

A box in tags, in a JSON object or in a list of four numbers becomes ``<box>(x1,y1),(x2,y2)</box>``, integers in
[0, 1000), top left corner first, with the object's label as ``<ref>``; bare pairs stay without tags. What is in that
form already stays character for character. Floats are rounded, fractions and pixels scaled (``coordinates.py``), the
far edge 1000 becomes 999. A box that is outside, reversed, without area, of three pairs, or inside a structure that is
not read, rejects the row.
"""

import json
import re
from contextlib import suppress

from ..utils.box_forms import IN_TAG, PLAIN, FoundBox, find_untagged, unread_numbers
from ..utils.boxes import convert_tags, tags_balanced
from ..utils.control_text import control_character, special_token
from .coordinates import Scale
from .problems import Reject


THOUSANDTHS = Scale()
_TAGGED = re.compile(r"(<box>)(.*?)(</box>)", re.DOTALL)
_CANONICAL = re.compile(r"\((\d{1,3}),(\d{1,3})\),\((\d{1,3}),(\d{1,3})\)", re.ASCII)
_JSON_KEY = re.compile(r"""["'](\w+)["']\s*:""")
_JSON_READ = {"bbox_2d", "bbox", "box", "bounding_box", "label", "name", "class", "category", "ref", "object"}
_OTHER_IMAGE = re.compile(r"<(?!(?-i:image>))\s*/?\s*(?:image|img)[^<>]{0,80}>", re.IGNORECASE)
_SHELL = re.compile(  # what is left of a structure whose box was read, and of a tag that is not one of ours
    r"""[{,]\s*\\?["'][\w ]{1,40}\\?["']\s*:|["']\s*\}|"""
    r"<\s*/?\s*\w*(?:box|coor|region|loc|det)[^<>]*>|&lt;\s*/?\w*box|\w\(\s*\Z",
    re.IGNORECASE,
)
_WORD = re.compile(r"(?!nan\b|inf\b)[^\W\d_]{2}", re.IGNORECASE)


def clean_text(text: str, scale: Scale = THOUSANDTHS) -> str:
    """Returns one question or answer with Qwen-VL's tags and boxes in the form above, or raises :class:`Reject`."""
    check_unicode(text)
    if control := special_token(text) or control_character(text):
        raise Reject("control_token", f"found {control!r}")
    if other := _OTHER_IMAGE.search(text):
        raise Reject("image_count", f"found {other[0]!r}: the placeholder of an image is <image>")
    if "<" in text or "＜" in text:
        if not tags_balanced(text):
            raise Reject("tags_unbalanced", f"in {_shorten(text)!r}")
        text = convert_tags(text, "qwen_vl")
    pieces = _TAGGED.split(text)  # words, <box>, content, </box>, words, ...
    pieces[::4] = [_rewrite_untagged(words, scale) for words in pieces[::4]]
    pieces[2::4] = [_rewrite_tagged(content, scale) for content in pieces[2::4]]
    return "".join(pieces)


def check_unicode(text: str) -> None:
    """Raises :class:`Reject` (``bad_text``) for text that UTF-8 cannot hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Reject("bad_text", f"character {error.start} is {text[error.start]!a}") from error


def unread_box(answer: str) -> str:
    """Numbers of a clean answer in a form that is not read (empty: none); rejects an answer of nothing else."""
    found = unread_numbers(answer)
    if found and not _WORD.search(answer):
        raise Reject("bad_box", f"{_shorten(answer)!r} is no box of two corners")
    return found


def _rewrite_tagged(content: str, scale: Scale) -> str:
    """The coordinates between two box tags."""
    if _CANONICAL.fullmatch(content) and scale == THOUSANDTHS:
        scale.box(_CANONICAL.fullmatch(content).groups())
        return content
    plain = content.translate(PLAIN)
    boxes = list(IN_TAG.finditer(plain))
    if not boxes or IN_TAG.sub("", plain).strip(" \t\r\n,;"):
        raise Reject("bad_box", f"expected (x1,y1),(x2,y2), found {_shorten(content)!r}")
    return ",".join(_written(box.groups(), scale) for box in boxes)


def _rewrite_untagged(text: str, scale: Scale) -> str:
    if not set(text) & set("([（［"):
        return text
    parts, position = [], 0
    for box in find_untagged(text.translate(PLAIN)):
        start, end = (box.start, box.end) if box.form == "pairs" else box.outer
        parts += (text[position:start], _untagged(box, text, scale))
        position = end
    parts.append(text[position:])
    if shell := position and next(filter(None, map(_SHELL.search, parts[::2])), None):
        raise Reject("bad_box", f"the box stands in a structure that is not read: {_shorten(shell.string)!r}")
    return "".join(parts)


def _untagged(box: FoundBox, text: str, scale: Scale) -> str:
    written, whole = _written(box.numbers, scale), text[box.start : box.end]
    if box.form == "pairs":
        return whole if scale == THOUSANDTHS and all(n.isdigit() and n != "1000" for n in box.numbers) else written
    if box.form == "four":
        return f"<box>{written}</box>"
    if lost := sorted({key.lower() for key in _JSON_KEY.findall(text[slice(*box.outer)])} - _JSON_READ):
        raise Reject("bad_box", f"the object of a box also has {', '.join(lost)}, which would be lost")
    label = box.label
    with suppress(ValueError):
        label = json.loads(f'"{label}"')
    return (f"<ref>{label}</ref>" if label else "") + f"<box>{written}</box>"


def _written(numbers: tuple[str, ...], scale: Scale) -> str:
    return "({},{}),({},{})".format(*scale.box(numbers))


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
