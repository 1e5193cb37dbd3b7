# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The rules of the authors' released evaluation (``test_metric/`` of ClinKD's repository), oddities included.

They are written anew here, apart from :mod:`..utils.boxes`, whose reading of boxes is more lenient. What differs from
``present``:

- A box is what stands between ``<box>`` and ``</box>`` on one line. Only without any such tag are
  ``(x1,y1),(x2,y2)`` of whole numbers without blanks boxes; Qwen2-VL's tags are no tags.
- A predicted box that is not four numbers is a box that matches nothing. Its corners are not put in order, so that an
  inverted one has a negative width or height: its IoU can be negative, or above 1.
- A target outside ``<box>`` tags is no target. The row then counts for nothing.
- A label's tags are kept: ``<ref>Sacrum</ref>`` must stand so in the answer. An empty label is always found.
- A score is divided by its count plus 1e-8; caption metrics are rounded to six digits, and so are their means.
- A response is cut by :func:`clean`, and nothing else is taken out of it.
"""

import re
from typing import Any

import numpy as np

from ..utils.boxes import MODALITIES


EPSILON = 1e-8
DIGITS = 6
CAPTION_KEYS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider")
_TAGGED = re.compile(r"<box>(.*?)</box>")
_BARE = re.compile(r"\(\d+,\d+\),\(\d+,\d+\)")


def clean(text: str) -> str:
    """A response as ``regularization.py`` reads it.

    The text up to and including the full stop of the first ``.<|im_end|>``; any other ``<|im_end|>`` at a line end is
    removed; with two or more line breaks left, only the second line; ``<|endoftext|>`` is removed; stripped.
    """
    head, end, _ = text.partition(".<|im_end|>")
    text = (head + "." if end else text).replace("<|im_end|>\n", "")
    lines = text.split("\n")
    return (lines[1] if len(lines) > 2 else text).replace("<|endoftext|>", "").strip()


def predicted_boxes(response: str) -> list[str]:
    """The texts that ``eval_VG.py`` takes as boxes of a cleaned response."""
    return _TAGGED.findall(response) or _BARE.findall(response)


def grounding_counts(annotation: str, response: str) -> tuple[int, int]:
    """Matched targets and targets of one row, as ``eval_VG.py`` counts them (IoU strictly above 0.5).

    Raises:
        ValueError: If a target has something other than numbers and the response has boxes: the authors' script ends.
    """
    targets, predicted = _TAGGED.findall(annotation), predicted_boxes(response)
    if not targets or not predicted:
        return 0, len(targets)
    true = _corners([_numbers(target) for target in targets])
    found = []
    for text in predicted:
        try:
            found.append(_numbers(text))
        except ValueError:
            found.append([])
    with np.errstate(all="ignore"):
        return int((_iou(_corners(found)[:, None], true[None]) > 0.5).any(axis=0).sum()), len(targets)


def label_found(annotation: str, response: str) -> bool:
    """Whether ``eval_RO.py`` counts a row as right: every blank-separated part of the label is in the response."""
    return all(token in response.lower() for token in annotation.lower().split(" "))


def share(sums: np.ndarray) -> np.ndarray:
    """First over second column plus 1e-8, ``[..., 2+]`` to ``[...]``."""
    return sums[..., 0] / (sums[..., 1] + EPSILON)


def round_captions(tasks: dict[str, Any]) -> None:
    """Rounds the caption metrics of RC and MIA and their means as ``eval_GC.py`` and ``eval_MII.py`` do, in place."""
    for task in ("RC", "MIA"):
        entry = tasks.get(task, {})
        modalities = [values for name, values in entry.get("modalities", {}).items() if name in MODALITIES]
        for key in ("macro", *CAPTION_KEYS):
            values = [each["value" if key == "macro" else key] for each in modalities] if key in entry else [None]
            if None in values:
                continue
            for each, value in zip(modalities, values, strict=True):
                each["value" if key == "macro" else key] = round(value, DIGITS)
            entry[key] = round(sum(round(value, DIGITS) for value in values) / len(MODALITIES), DIGITS)
        if task == "MIA" and entry.get("macro") is not None:
            entry["macro"] = sum(entry[key] for key in CAPTION_KEYS[:6]) / 6
            entry["mbmr_bird"] = sum(entry[key] for key in CAPTION_KEYS[3:6]) / 3


def _numbers(text: str) -> list[float]:
    """The comma-separated numbers of a box without its parentheses; ValueError if a part is none."""
    return [float(number) for number in text.replace("(", "").replace(")", "").split(",")]


def _corners(boxes: list[list[float]]) -> np.ndarray:
    """float64 ``[boxes, 4]``; NaN, which matches nothing, for a box that is not four numbers."""
    return np.array([box if len(box) == 4 else [np.nan] * 4 for box in boxes], dtype=np.float64)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of corners ``[..., 4]`` taken as they stand."""
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    intersection = sides[..., 0] * sides[..., 1]
    area_a, area_b = ((box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b))
    return intersection / (area_a + area_b - intersection)
