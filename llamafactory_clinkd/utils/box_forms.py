# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The forms in which data sets and models write boxes, and the numbers in a text that are in no such form.

=================================================  ==========================================================
form                                               written by
=================================================  ==========================================================
``<|box_start|>(1,2),(3,4)<|box_end|>``            Qwen2-VL
``<box>(1,2),(3,4)</box>``                         Qwen-VL, Med-GRIT-270k, BiRD
``<box>[[1, 2, 3, 4]]</box>``, ``<box>1 2 3 4``..  InternVL and others; ``<bbox>`` is read like ``<box>``
``(1,2),(3,4)``, ``[[1,2],[3,4]]``                 without tags
``{"bbox_2d": [1, 2, 3, 4], "label": "liver"}``    Qwen2.5-VL and Qwen3-VL, alone, in lists and in code fences
``[1, 2, 3, 4]``, ``(1,2,3,4)``                    without tags: the whole text, or at least 10 units wide and high
                                                   (or fractions), so that ``segments (1, 2, 3, 4)`` is no box
=================================================  ==========================================================
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


TAGS: dict[str, dict[str, str]] = {
    "qwen2_vl": {
        "ref": "<|object_ref_start|>",
        "/ref": "<|object_ref_end|>",
        "box": "<|box_start|>",
        "/box": "<|box_end|>",
    },
    "qwen_vl": {"ref": "<ref>", "/ref": "</ref>", "box": "<box>", "/box": "</box>"},
}
_READ_ONLY = {  # spelled so by other data sets
    "bbox": {"box": "<bbox>", "/box": "</bbox>"},
    "authors": {"ref": "<ref_start>", "/ref": "<ref_end>", "box": "<box_start>", "/box": "<box_end>"},
}
# One character to one character, so that positions in the plain text are those in the original.
PLAIN = str.maketrans("（），、．＜＞／｜－［］｛｝：；０１２３４５６７８９", "(),,.<>/|-[]{}:;0123456789")
_KINDS = {tag: (style, kind) for style, kinds in (TAGS | _READ_ONLY).items() for kind, tag in kinds.items()}
_TAG = re.compile("|".join(re.escape(tag) for tag in _KINDS), re.IGNORECASE)

_N = r"[-+]?(?:\d{1,9}(?:\.\d{0,20})?|\.\d{1,20})(?:e[-+]?\d{1,2})?"
_ITEM = rf"(?:{_N}|[a-z]{{1,9}})?"
_NUMBER = rf"\s*({_N})\s*"
_COMMA = r"(?:\s*,\s*|\s+)"
IN_TAG = re.compile(  # a box between tags, in any brackets
    rf"[(\[]*\s*(?<![\d.])({_N}){_COMMA}({_N})(?:\s*[)\]]\s*,?\s*[(\[]\s*|{_COMMA})({_N}){_COMMA}({_N})(?![\d.])\s*[)\]]*",
    re.IGNORECASE,
)
_PAIR = re.compile(rf"[(\[]{_NUMBER},{_NUMBER}[)\]]", re.IGNORECASE)
_FOUR = re.compile(rf"[(\[]{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}[)\]]", re.IGNORECASE)
_KEY = re.compile(
    r"""(?:(["'])([\w ]{1,40})\1|\b(\w*(?:xywh|yxyx|poly|box_2d|point|size|shape)\w*))\s*[:=]\s*$""", re.I
)
_BOX_KEYS = {"bbox_2d", "bbox", "box", "bounding_box", "bounding box"}
LABEL = re.compile(r"""["'](?:label|name|class|category|ref|object)["']\s*:\s*(["'])((?:\\.|(?!\1).)*)\1""", re.I)
_FENCE = re.compile(r"```\w*")
_BEFORE = re.compile(r"(?:```\w*\s*)?\[?\s*$")
_AFTER = re.compile(r"\s*(?:,(?=\s*[{\[])|\])?\s*(?:```)?")
_UNREAD = re.compile(
    r"<(?!/)[^<>]{0,20}(?:box|quad|poly|point|coor)(?![^<>]*end)[^<>]{0,20}>[^<>]{0,80}?(?:\d|nan|inf)"
    r"|<(?:loc|bin|patch_index)_?\d+>|\{(?:<\d+>){2}"
    rf"|[(\[{{]\s*{_N}\s*%(?:\s*[,;]?\s*{_N}\s*%){{3}}|\A\W*{_N}(?:\s+{_N}){{3,4}}\W*\Z"
    r"|\(\s*\d{2,4}\s*,\s*\d{2,4}\s*\)[^()\d]{1,30}\(\s*\d{2,4}\s*,\s*\d{2,4}\s*\)"  # (10,20) to (30,40)
    rf"|\bx\s*[:=]\s*{_N}\W*y\s*[:=]\s*{_N}\W*w"
    rf"|(?<![\w.]){_N}(?:\s*[,;]\s*(?:{_N}|nan|inf)){{3}}|[(\[{{]\s*{_N}(?:\s+{_N}){{3}}\s*[)\]}}]"
    r"|[(\[][^()\[\]]{0,60}\b(?:nan|inf)\b[^()\[\]]{0,60}[)\]]"
    rf"|(?:\(|\[\[)\s*{_N}(?:\s*,\s*{_N})+\s*[)\]]\s*,?\s*[(\[]\s*{_N}\s*,"  # pairs, and what should be pairs
    rf"|[(\[](?=[^()\[\]]*\d[^()\[\]]*,[^()\[\]]*\d)(?:\s*{_ITEM}\s*,){{3}}\s*{_ITEM}\s*[)\]]"  # one is missing
    r"""|["']?\b(?:x_?min|x_?1|b?box\w*|bounding_box|point_2d)["']?\s*[:=]\s*[\[("']*\s*[-.\d]|["'](?:x|cx|left)["']\s*:\s*[-.\d]""",
    re.IGNORECASE,
)
LEAST_SIDE = 10  # units of four bare numbers in running text


class FoundBox(NamedTuple):
    """Four numbers as they are written, where they stand, what they belong to, and the label of a JSON object."""

    numbers: tuple[str, str, str, str]
    start: int
    end: int
    outer: tuple[int, int]  # with the JSON object, list and code fence around it
    label: str = ""
    form: str = "tagged"  # or "pairs", "four", "json"


def tags(plain: str) -> Iterator[tuple[str, str, int, int]]:
    """Yields (style, kind, start, end) of each tag; a kind is ``ref``, ``/ref``, ``box`` or ``/box``."""
    for match in _TAG.finditer(plain):
        yield *_KINDS[match[0].lower()], match.start(), match.end()


def find_boxes(plain: str) -> list[FoundBox]:
    """The boxes between tags in order or, when there are none, the others; ``plain`` is translated by ``PLAIN``.

    Text between two box tags with numbers beside its boxes, such as a third pair, is malformed and gives no box.
    """
    tagged, opened = [], None
    for _, kind, start, end in tags(plain):
        if kind == "box" and opened is None:
            opened = end
        elif kind == "/box" and opened is not None:
            inside = [_found(match, "tagged") for match in IN_TAG.finditer(plain, opened, start)]
            rest = IN_TAG.sub("", plain[opened:start])
            tagged += [] if any(character.isdigit() for character in rest) else inside
            opened = None
    return tagged or find_untagged(plain)


def find_untagged(plain: str) -> list[FoundBox]:
    """The boxes of a text without box tags, in order."""
    found, whole = _pairs(plain), _FENCE.sub("", plain).strip(" \t\r\n.[]()")
    for match in _FOUR.finditer(plain):
        key = _KEY.search(plain, max(0, match.start() - 50), match.start())
        name = (key[2] or key[3]).lower() if key else ""
        if name in _BOX_KEYS:
            found.append(_json(plain, match, key.start()))
        elif not key and (_is_box(match.groups()) or whole == match[0][1:-1].strip()):
            found.append(_found(match, "four", _grown(plain, match.start(), match.end())))
    return sorted(found, key=lambda box: box.start)


def unread_numbers(text: str) -> str:
    """The first piece of ``text`` that looks like a box and is not read as one, or an empty text."""
    plain = list(text.translate(PLAIN))
    for box in find_boxes("".join(plain)) + find_untagged("".join(plain)):
        start, end = (box.start, box.end) if box.form == "tagged" else box.outer
        plain[start:end] = "\n" * (end - start)
    match = _UNREAD.search("".join(plain))
    return text[match.start() : match.end() + 12].split("\n")[0] if match else ""


def unread_summary(answers: Iterable[str]) -> str | None:
    """How many ``answers`` hold numbers in a form that is not read, with the first of them; None if none does."""
    found = [unread_numbers(answer) for answer in answers]
    unread = [numbers for numbers in found if numbers]
    if not unread:
        return None
    return f"{len(unread):,} of {len(found):,} answers hold numbers in a form that is not read: {unread[0][:60]!r}"


def unit_mismatch(truths: Iterable[str], answers: Iterable[str]) -> str | None:
    """A sentence if ``answers`` are mostly fractions, or a tenth of their boxes exceeds 1000, and ``truths`` not."""
    units = []
    for texts in (truths, answers):
        boxes = [box.numbers for text in texts for box in find_boxes(text.translate(PLAIN))]
        fractions, over = sum(map(is_fraction, boxes)), sum(max(map(float, box)) > 1000 for box in boxes)
        pixels = "pixels" if 10 * over > len(boxes) else "thousandths"
        units.append("fractions" if 2 * fractions > len(boxes) else pixels)
    if units[0] == units[1] or not boxes:
        return None
    return f"the boxes of the answers look like {units[1]}, the ground truth like {units[0]}: scale one of them"


def is_fraction(numbers: Sequence[str]) -> bool:
    """Whether all four numbers are within [0, 1], at least one with a decimal point."""
    return all(0 <= float(number) <= 1 for number in numbers) and any("." in number for number in numbers)


def _found(match: re.Match, form: str, outer: tuple[int, int] | None = None) -> FoundBox:
    return FoundBox(match.groups(), match.start(), match.end(), outer or match.span(), form=form)


def _pairs(plain: str) -> list[FoundBox]:
    """Two corners each; a run of an odd number of pairs is none (a point, a polygon)."""
    runs: list[list[re.Match]] = []
    for match in _PAIR.finditer(plain):
        if runs and plain[runs[-1][-1].end() : match.start()].strip() in ("", ","):
            runs[-1].append(match)
        else:
            runs.append([match])
    found = []
    for run in runs:
        start = run[0].start()
        if len(run) % 2 or (plain[start] == "[" and plain[max(start - 1, 0)] != "["):  # [1,2],[3,4] may be citations
            continue
        for first, second in zip(run[::2], run[1::2], strict=True):
            span = (first.start(), second.end())
            found.append(FoundBox(first.groups() + second.groups(), *span, _grown(plain, *span), form="pairs"))
    return found


def _is_box(numbers: tuple[str, ...]) -> bool:
    x1, y1, x2, y2 = map(float, numbers)
    return min(x2 - x1, y2 - y1) >= (1e-9 if is_fraction(numbers) else LEAST_SIDE)


def _json(plain: str, match: re.Match, key_start: int) -> FoundBox:
    """The box of a JSON object, which may be cut off at its end."""
    opened, closed = plain.rfind("{", 0, match.start()), plain.find("}", match.end())
    if opened < 0 or "}" in plain[opened : match.start()]:
        return _found(match, "json", (key_start, match.end()))
    closed = closed + 1 if closed >= 0 and "{" not in plain[match.end() : closed] else match.end()
    label = LABEL.search(plain, opened, closed)
    outer = _grown(plain, opened, closed)
    return FoundBox(match.groups(), *match.span(), outer, label[2] if label else "", "json")


def _grown(plain: str, start: int, end: int) -> tuple[int, int]:
    """A span with the list and the code fence around it."""
    before, after = _BEFORE.search(plain, max(0, start - 20), start), _AFTER.match(plain, end)
    in_list = "[" in before[0] or "]" in after[0] or "," in after[0] or "```" in before[0] + after[0]
    return (before.start(), after.end()) if in_list else (start, end)
