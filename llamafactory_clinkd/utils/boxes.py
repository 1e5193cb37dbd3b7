# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Boxes in text: parsing, writing and comparing them, for every tag style of the project.

A box is two corners in the text, ``(x1,y1),(x2,y2)``, in thousandths of the image's width and height.

=========  ==============================================================================================
tags       how a reference and its box are written
=========  ==============================================================================================
qwen2_vl   ``<|object_ref_start|>liver<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>``
qwen_vl    ``<ref>liver</ref><box>(1,2),(3,4)</box>`` (Qwen-VL, Med-GRIT-270k, BiRD)
=========  ==============================================================================================

``box_forms.py`` lists the forms that are read. As in BiRD's and ClinKD's released evaluation code, boxes without tags
count only where there is no tagged one; for what that code leaves to chance:

=================================================  ==========================================================
text                                               outcome
=================================================  ==========================================================
floats, blanks, ``(1,2)(3,4)``                     read as they stand; nothing is rescaled
several boxes within one tag                       read; with a number left over (three pairs) none of them
corners in reverse order                           the same rectangle, corners put in order
coordinates below 0 or over 1000                   kept, not clipped: an overshooting box has a lower IoU
no width or no height (degenerate)                 a box, whose IoU with anything, itself included, is 0
doubled tags ``<box><box>(1,2),(3,4)</box></box>``  one box
one of the two tags missing                        not tagged: read by the bare rule, if nothing is tagged
an opening and a closing tag of different styles   a tagged box (``tags_balanced`` is False)
tagged text without coordinates                    no box; bare ones elsewhere in the text are then read
full-width ``（１，２），（３，４）`` and ``＜box＞``      read like their ASCII forms
numbers of more than nine digits                   not a number of a box
=================================================  ==========================================================
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from .box_forms import PLAIN, TAGS, find_boxes, find_untagged
from .box_forms import tags as tags_in


TagStyle = Literal["qwen2_vl", "qwen_vl"]
Task = Literal["VG", "ROC", "RC", "MIA"]

SIDE_COLUMNS = ("id", "task", "modality")  # of a ShareGPT row; LLaMA-Factory ignores them
KEPT_COLUMNS = ("answer_type", "content_type", "organ", "language", "question_id", "patient", "annotations", "choices")
IMAGE_PLACEHOLDER = "<image>"
UNIT_OF_MODEL = {"qwen2_vl": "thousandths", "qwen2_5_vl": "resized", "qwen3_vl": "thousandths"}
"""``model_type`` -> the unit of its boxes; the units are in ``data/coordinates.py``."""
TASKS: tuple[Task, ...] = ("VG", "ROC", "RC", "MIA")
VQA = "VQA"  # the task of short answers, which the paper does not have
MODALITIES = ("ct", "mr", "x", "pet", "endoscopy", "dermoscopy", "fundus", "ultrasound")

_VERB = re.compile(
    r"\b(is|are|was|were|be|has|have|had|shows?|showing|shown|appears?|seems?|suggests?|indicates?|indicating|"
    r"represents?|depicts?|displays?|contains?|reveals?|demonstrates?|lies|located|seen)\b",
    re.IGNORECASE,
)
_ASKS_FOR_TEXT = re.compile(r"\b(descri\w*|caption\w*|explain\w*|elaborate|detail\w*|tell me about)\b", re.IGNORECASE)


class Box(NamedTuple):
    """Two corners in thousandths of the image; ``x1 <= x2`` and ``y1 <= y2`` when :func:`parse_boxes` read it."""

    x1: float
    y1: float
    x2: float
    y2: float


def parse_boxes(text: str) -> list[Box]:
    """Reads every box of ``text`` in order, in any tag style; the table at the top of this file gives each outcome."""
    boxes = []
    for found in find_boxes(text.translate(PLAIN)):
        x1, y1, x2, y2 = map(float, found.numbers)
        boxes.append(Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    return boxes


def to_thousandths(boxes: Iterable[Sequence[float]], frame: tuple[float, float]) -> list[Box]:
    """Boxes whose coordinates refer to a width and a height, such as pixels, in thousandths of the image."""
    width, height = frame
    return [Box(*(1000 * value / (height if i % 2 else width) for i, value in enumerate(box))) for box in boxes]


def box_strings(text: str) -> list[str]:
    """The coordinates of every box of ``text`` without tags, character for character, in order."""
    return [text[box.start : box.end] for box in find_boxes(text.translate(PLAIN))]


def has_box(text: str) -> bool:
    """Whether :func:`parse_boxes` finds a box in ``text``."""
    return bool(find_boxes(text.translate(PLAIN)))


def format_box(box: Sequence[float], tags: TagStyle = "qwen2_vl") -> str:
    """Writes a box (corners in any order) with tags, as integers in [0, 1000): rounded, the far edge 1000 as 999.

    Raises:
        ValueError: If a coordinate, once rounded, is outside [0, 1000] or not finite, or the style is unknown.
    """
    style = _style(tags)
    x1, y1, x2, y2 = box
    if not all(math.isfinite(value) and -0.5 <= value <= 1000.5 for value in (x1, y1, x2, y2)):
        raise ValueError(f"The box {tuple(box)} is not within [0, 1000]: give thousandths of the image's size.")
    x1, y1, x2, y2 = (min(round(value), 999) for value in (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    return f"{style['box']}({x1},{y1}),({x2},{y2}){style['/box']}"


def convert_tags(text: str, tags: TagStyle) -> str:
    """Rewrites the tags of ``text`` to one style, and nothing else; raises ValueError for an unknown style."""
    style, parts, position = _style(tags), [], 0
    for _, kind, start, end in tags_in(text.translate(PLAIN)):
        parts += (text[position:start], style[kind])
        position = end
    return "".join(parts) + text[position:]


def strip_boxes(text: str) -> str:
    """Takes tags and boxes, tagged or bare, out of ``text``; words are kept, white space becomes single blanks."""
    plain = text.translate(PLAIN)
    boxes = find_boxes(plain) + find_untagged(plain)
    spans = [(box.start, box.end, "") if box.form == "tagged" else (*box.outer, box.label) for box in boxes]
    spans += [(start, end, "") for _, _, start, end in tags_in(plain)]
    parts, position = [], 0
    for start, end, label in sorted(spans):
        if end > position:
            parts += (text[position:start], label)
            position = end
    words = " ".join((" ".join(parts) + " " + text[position:]).split())
    words = re.sub(r"\s+(?=[,.;:?!])", "", words)
    return re.sub(r",(?:,)+", ",", words).strip(", ")


def tags_balanced(text: str) -> bool:
    """Whether every tag of ``text`` is closed by its partner of the same style before the next one opens."""
    opened = None
    for style, kind, _, _ in tags_in(text.translate(PLAIN)):
        if not kind.startswith("/"):
            if opened is not None:
                return False
            opened = (style, "/" + kind)
        elif opened != (style, kind):
            return False
        else:
            opened = None
    return opened is None


def iou_matrix(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> np.ndarray:
    """Intersection over union of every pair of boxes ``[A, 4]`` and ``[B, 4]``: float64 ``[A, B]`` in [0, 1].

    Corners may be in any order. Areas are without the "+1" of pixel counting; a union without an area gives 0.
    """
    first = np.asarray(a, dtype=np.float64).reshape(-1, 2, 2)
    second = np.asarray(b, dtype=np.float64).reshape(-1, 2, 2)
    low_a, high_a = first.min(axis=1), first.max(axis=1)  # [A, 2]
    low_b, high_b = second.min(axis=1), second.max(axis=1)  # [B, 2]
    overlap = np.minimum(high_a[:, None], high_b[None]) - np.maximum(low_a[:, None], low_b[None])  # [A, B, 2]
    intersection = overlap.clip(min=0).prod(axis=-1)
    union = (high_a - low_a).prod(axis=-1)[:, None] + (high_b - low_b).prod(axis=-1)[None] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def task_of(question: str, answer: str) -> Task:
    """A row's task, from its question and ground-truth answer; a ``task`` column in the data overrides it.

    ``MIA`` without a box, ``VG`` with one in the answer only. With a box in the question, ``ROC`` if the answer is a
    label (at most three words besides the boxes), ``RC`` if it is a description (more than eight words, or a verb);
    between, the question decides. Med-GRIT-270k follows this (BiRD, section 3); other data may need the column.
    """
    if not has_box(question):
        return "VG" if has_box(answer) else "MIA"
    words = strip_boxes(answer)
    count = len(words.split())
    if count <= 3:
        return "ROC"
    if count > 8 or _VERB.search(words):
        return "RC"
    return "RC" if _ASKS_FOR_TEXT.search(strip_boxes(question)) else "ROC"


def modality_of(image: str) -> str:
    """The modality in an image's name, lower-case, up to the first ``_`` or ``.``: ``images/CT_12.png`` is ``ct``."""
    name = re.split(r"[/\\]", image)[-1]
    return name.partition("_")[0].partition(".")[0].lower()


def modality_label(name: str) -> str:
    """A modality as the paper writes it: ``CT``, ``MR``, ``X-ray``, ``PET``, ``Fundus``, ..."""
    return {"ct": "CT", "mr": "MR", "x": "X-ray", "pet": "PET"}.get(name, name[:1].upper() + name[1:])


def sort_modalities(names: Iterable[str]) -> list[str]:
    """The distinct names, the eight modalities in the paper's order first, the others after them by name."""
    names = set(names)
    return [name for name in MODALITIES if name in names] + sorted(names - set(MODALITIES))


def _style(tags: str) -> dict[str, str]:
    """The tags of a style, or an error that lists the styles."""
    if tags not in TAGS:
        raise ValueError(f"Unknown tag style {tags!r}: expected one of {', '.join(TAGS)}.")
    return TAGS[tags]
