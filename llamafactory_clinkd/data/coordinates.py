# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What the numbers of a file's boxes are, and what a model reads.

The unit is one for a whole file, never one for each box: given with ``--coordinates``, fixed by the format (COCO has
pixels), or worked out from all boxes by :func:`unit_of`. Boxes that do not fit the unit are set aside.

============  ===================================================================================
unit          the far corner of the picture
============  ===================================================================================
thousandths   (1000, 1000): Qwen-VL, Qwen2-VL, Qwen3-VL, Med-GRIT-270k
fractions     (1, 1)
pixels        its width and height, upright
resized       width and height that the processor of Qwen2.5-VL (``smart_resize``) resizes it to
============  ===================================================================================
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..utils.box_forms import is_fraction
from .problems import Reject


Unit = Literal["pixels", "resized", "thousandths", "fractions"]
Coordinates = Literal["auto", "pixels", "resized", "thousandths", "fractions"]
ModelType = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
Size = tuple[float, float]  # width and height

IMAGE_MAX_PIXELS, IMAGE_MIN_PIXELS = 768 * 768, 32 * 32  # LLaMA-Factory's own defaults
OUTLIERS = 0.01  # share of boxes that may contradict the unit of a file


@dataclass(frozen=True)
class Scale:
    """From a source's ``unit``, pixels of a picture of size ``frame``, to pixels of ``target`` or thousandths."""

    unit: Unit = "thousandths"
    frame: Size | None = None
    target: Size | None = None

    def box(self, numbers: Sequence[str]) -> list[int]:
        """Rounds ``x1, y1, x2, y2`` to integers, in [0, 1000) or within ``target``; an unusable box is a Reject."""
        original = "({},{}),({},{})".format(*numbers)
        values = [float(number) for number in numbers]
        extent = {"thousandths": (1000, 1000), "fractions": (1, 1)}.get(self.unit, self.frame)
        if extent is None:
            raise Reject("box_scale", f"{original} is in pixels, and the size of its picture is not known")
        if self.unit != "fractions" and is_fraction(numbers):
            raise Reject("box_scale", f"{original} is in fractions, the other boxes of the file in {self.unit}")
        slack = 0 if self.unit in ("thousandths", "fractions") else 1  # some tools count the pixels from 1
        if not all(0 <= value <= extent[i % 2] + slack for i, value in enumerate(values)):
            within = f"[0, {extent[0]:g}]" + ("" if extent[0] == extent[1] else f" x [0, {extent[1]:g}]")
            pixels = "" if slack or self.unit == "fractions" else ": are these pixels?"
            raise Reject("box_outside", f"{original} is not within {within}{pixels}")
        width, height = self.target or (1000, 1000)
        far = (width, height) if self.target else (999, 999)
        scaled = [value / extent[i % 2] * (width, height)[i % 2] for i, value in enumerate(values)]
        x1, y1, x2, y2 = rounded = [min(round(value), int(far[i % 2])) for i, value in enumerate(scaled)]
        if values[0] > values[2] or values[1] > values[3]:
            raise Reject("box_order", f"{original}: the top left corner has to come first")
        if x1 == x2 or y1 == y2:
            raise Reject("box_empty", f"{original} has no area in whole {'pixels' if self.target else 'thousandths'}")
        return rounded


@dataclass
class Evidence:
    """Counts of a file's boxes that show their unit."""

    boxes: int = 0
    fractions: int = 0
    over: int = 0  # with a number over 1000
    sized: int = 0  # on a picture whose size is known
    telling: int = 0  # of these, with a side below 1000 pixels, or over 1000 themselves
    misfit: int = 0  # of these, outside the picture if they are pixels

    def add(self, numbers: Sequence[str], size: Size | None) -> None:
        """Counts one box."""
        values = [float(number) for number in numbers]
        over = max(values) > 1000
        self.boxes += 1
        self.fractions += is_fraction(numbers)
        self.over += over
        if size is not None:
            self.sized += 1
            self.telling += over or min(size) < 1000
            self.misfit += not all(0 <= value <= size[i % 2] + 1 for i, value in enumerate(values))

    @property
    def fits_pixels(self) -> bool:
        """Whether practically all boxes are within their pictures if they are pixels."""
        return self.sized > 0 and self.misfit <= OUTLIERS * self.sized

    def __str__(self) -> str:
        fit = f"{self.misfit:,} of {self.sized:,} outside their picture if in pixels"
        counts = f"{self.boxes:,} boxes, {self.fractions:,} within [0, 1], {self.over:,} over 1000"
        return f"{counts}, {fit if self.sized else 'no picture read'}"


def unit_of(evidence: Evidence, requested: Coordinates = "auto", usual: Unit | None = None) -> tuple[Unit, list[str]]:
    """The unit of a file and warnings; ``usual`` is the format's own, which the boxes may contradict.

    Fractions if most boxes are; pixels if practically all fit their pictures and it is the usual unit or thousandths
    are impossible; else thousandths.
    """
    pixels = evidence.fits_pixels and (usual == "pixels" or evidence.over > 0)
    found: Unit = "fractions" if 2 * evidence.fractions > evidence.boxes else "pixels" if pixels else "thousandths"
    unit = found if requested == "auto" else requested
    thousandths = unit == "thousandths"
    inside = "All boxes lie within their pictures, also where these are smaller than 1000 pixels"
    advice = "If they are pixels: --coordinates pixels."
    doubts = {
        f"{inside} ({evidence}). They are taken as thousandths. {advice}": thousandths
        and evidence.fits_pixels
        and evidence.telling
        and not evidence.fractions,
        f"This format usually has pixels; these fit no picture ({evidence}) and are taken as thousandths.": thousandths
        and usual == "pixels"
        and evidence.boxes,
        f"Boxes taken as thousandths reach over 1000 ({evidence}). {advice}": thousandths
        and evidence.over > OUTLIERS * evidence.boxes,
        f"Boxes given as {unit} look like fractions ({evidence}).": requested != "auto"
        and found == "fractions" != unit,
    }
    return unit, [doubt for doubt, holds in doubts.items() if holds]


def resized(width: float, height: float, max_pixels: int = IMAGE_MAX_PIXELS) -> tuple[int, int]:
    """Width and height that LLaMA-Factory (0.9.5, Qwen2-VL) passes to the image processor."""
    pixels = width * height
    limit = min(max(pixels, IMAGE_MIN_PIXELS), max_pixels)
    if pixels != limit:
        factor = math.sqrt(limit / pixels)
        width, height = int(width * factor), int(height * factor)
    width, height = max(width, 28), max(height, 28)
    if width / height > 200:
        width = height * 180
    if height / width > 200:
        height = width * 180
    return width, height


def drawing_frame(unit: Unit, size: Size, max_pixels: int = IMAGE_MAX_PIXELS) -> Size:
    """Width and height to which boxes in ``unit`` refer, on a picture of ``size`` that a model has read."""
    frame = {"thousandths": (1000, 1000), "fractions": (1, 1), "pixels": size}.get(unit)
    return frame or processed(size, max_pixels, stock=True)


def processed(size: Size, max_pixels: int, stock: bool) -> Size:
    """Width and height after the processor of Qwen2.5-VL, with ``stock`` after LLaMA-Factory's resizing."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    width, height = resized(*size, max_pixels) if stock else size
    largest = 16384 * 28 * 28 if stock else max_pixels  # the published processor's own
    try:
        height, width = smart_resize(height, width, factor=28, min_pixels=4 * 28 * 28, max_pixels=largest)
    except ValueError as error:
        raise Reject("box_scale", f"a picture of {width} x {height} pixels: {error}") from error
    return width, height
