# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Scores the candidates of several rows in one pass of an image-text scorer.

Each image is decoded once, each picture (image, box and view) and each text is encoded once.
"""

import math
import statistics
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PIL import Image

from ..utils.pixels import rgb_pixels
from .views import box_view, views_of
from .words import Pair, pairs_of


Row = dict[str, Any]
IMAGES_KEPT = 64


class RowScores(NamedTuple):
    """The scores of one row's candidates."""

    scores: list[float | None]
    reasons: list[str | None]
    """Why a candidate has no score."""
    error: str | None = None
    """Why the whole row cannot be ranked."""


def unranked(row: Row, error: str) -> RowScores:
    """The scores of a row that cannot be ranked."""
    return RowScores([None] * len(row["candidates"]), [None] * len(row["candidates"]), error)


class ImageCache:
    """Decoded images by name, the last ones that were used."""

    def __init__(self, load_image: Callable[[Row], Image.Image]) -> None:
        self._load_image = load_image
        self._images: OrderedDict[str, Image.Image] = OrderedDict()

    def get(self, row: Row) -> Image.Image:
        """The row's image; raises whatever ``load_image`` raises."""
        name = row["image"]
        if name not in self._images:
            self._images[name] = rgb_pixels(self._load_image(row))
            if len(self._images) > IMAGES_KEPT:
                self._images.popitem(last=False)
        self._images.move_to_end(name)
        return self._images[name]


def image_scores(rows: Sequence[Row], scorer: Any, images: ImageCache, region: str) -> list[RowScores]:
    """The scores of each row's candidates, see :mod:`.views` and :mod:`.words`.

    ``scorer.score`` gets distinct pictures with the distinct words of each, in one call.
    """
    views = views_of(region)
    pictures: dict[tuple, Image.Image] = {}
    words_of: dict[tuple, dict[str, None]] = {}
    plans: list[list[list[tuple[tuple, str]] | str] | str] = []
    for row in rows:
        if not row.get("image"):
            plans.append("The row has no image to compare with; the scorers `logprob` and `consensus` need none.")
            continue
        try:
            image = images.get(row)
        except Exception as problem:  # a missing, broken or forbidden image must not lose the other rows
            plans.append(f"The image cannot be read ({type(problem).__name__}: {problem}).")
            continue
        question = str(row.get("question") or "")
        plan: list[list[tuple[tuple, str]] | str] = []
        for candidate in row["candidates"]:
            pairs = pairs_of(candidate["text"], question, use_boxes=bool(views))
            plan.append(_comparisons(pairs, row["image"], image, views, pictures, words_of))
        plans.append(plan)

    texts = [list(words) for words in words_of.values()]
    table = scorer.score([pictures[key] for key in words_of], texts) if words_of else []
    scores = {
        (key, text): score
        for key, view_texts, view_scores in zip(words_of, texts, table, strict=True)
        for text, score in zip(view_texts, view_scores, strict=True)
    }
    return [
        unranked(row, plan) if isinstance(plan, str) else _row_scores(plan, scores)
        for row, plan in zip(rows, plans, strict=True)
    ]


def _comparisons(
    pairs: list[Pair], name: str, image: Image.Image, views: Sequence[str], pictures: dict, words_of: dict
) -> list[tuple[tuple, str]] | str:
    """The pictures and words whose mean score is a candidate's, added to the two tables; or why there are none."""
    found = []
    for words, box in pairs:
        if not words:
            return "no words"
        for view in views if box is not None else ("image",):
            key = (name, view, box)
            if key not in pictures:
                picture = image if box is None else box_view(image, box, view)
                if picture is None:
                    return "box outside the image"
                pictures[key] = picture
            words_of.setdefault(key, {})[words] = None
            found.append((key, words))
    return found


def _row_scores(plan: list[list[tuple[tuple, str]] | str], scores: dict[tuple, float]) -> RowScores:
    means, reasons = [], []
    for comparisons in plan:
        if isinstance(comparisons, str):
            means.append(None)
            reasons.append(comparisons)
            continue
        mean = statistics.fmean(scores[comparison] for comparison in comparisons)
        means.append(mean if math.isfinite(mean) else None)
        reasons.append(None if math.isfinite(mean) else f"the score is {mean}")
    return RowScores(means, reasons)
