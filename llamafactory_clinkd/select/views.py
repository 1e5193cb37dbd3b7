# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a batch's candidates are compared with: the whole image, or each candidate's own box of it."""

from typing import Literal

from PIL import Image

from ..utils.boxes import Box, parse_boxes, strip_boxes
from .scorers import Scorer


Region = Literal["image", "crop"]
View = tuple[str, Box | None]  # an image, or one box of it
Place = tuple[View, str]  # a view and the words that are compared with it


def crop_box(image: Image.Image, box: Box) -> Image.Image | None:
    """The part of ``image`` inside ``box`` (thousandths), at least one pixel; None if nothing of it is inside."""
    left, right = (min(max(x / 1000, 0.0), 1.0) * image.width for x in (box.x1, box.x2))
    top, bottom = (min(max(y / 1000, 0.0), 1.0) * image.height for y in (box.y1, box.y2))
    if right <= left or bottom <= top:
        return None
    return image.crop((int(left), int(top), max(round(right), int(left) + 1), max(round(bottom), int(top) + 1)))


class Views:
    """Collects views and words so that each view is encoded once, and equal words on a view are scored once."""

    def __init__(self) -> None:
        self._pictures: dict[View, Image.Image] = {}
        self._words: dict[View, dict[str, None]] = {}

    def add(self, name: str, image: Image.Image, text: str, region: Region) -> Place | None:
        """Notes a candidate of the image called ``name``; None if it has no words apart from boxes."""
        words = strip_boxes(text)
        if not words:
            return None
        boxes = parse_boxes(text) if region == "crop" else []
        crop = crop_box(image, boxes[0]) if boxes else None
        view, picture = ((name, boxes[0]), crop) if crop is not None else ((name, None), image)
        self._pictures.setdefault(view, picture)
        self._words.setdefault(view, {})[words] = None
        return view, words

    def score(self, scorer: Scorer) -> dict[Place, float]:
        """Scores everything in one pass of the scorer."""
        if not self._pictures:
            return {}
        table = scorer.score(list(self._pictures.values()), [list(words) for words in self._words.values()])
        return {
            (view, words): score
            for (view, texts), scores in zip(self._words.items(), table, strict=True)
            for words, score in zip(texts, scores, strict=True)
        }
