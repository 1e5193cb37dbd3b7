# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The options and the result of `clinkd data convert`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..utils.boxes import TagStyle
from .coordinates import IMAGE_MAX_PIXELS, Coordinates, ModelType
from .images import relative_path
from .scans import Slice, Window


@dataclass(frozen=True)
class Options:
    """How rows are built."""

    tags: TagStyle = "qwen2_vl"
    coordinates: Coordinates = "auto"  # of the boxes in the source
    split_turns: bool = False  # one row per turn, with ids x#1, x#2 ..., instead of one per conversation
    image_folder: str | Path | None = None  # LLaMA-Factory's media_dir; by default the source's, or the output's
    image_prefix: str = ""  # put before every image path, for instance "images"
    default_slice: Slice = Slice()  # of volumes whose path names none
    window: Window | None = None  # centre and width in HU for CT, instead of the file's own
    model_type: ModelType = "qwen2_vl"  # whose convention the boxes are written in
    image_max_pixels: int = IMAGE_MAX_PIXELS  # the recipe's, for a model that reads pixels
    upright: bool = True  # whether an EXIF orientation is applied; else dropped, for boxes drawn on the stored pixels
    patient_column: str = ""  # of the source, for `split --by patient`: written as a keyed hash

    def __post_init__(self) -> None:
        if self.image_prefix:
            relative_path(self.image_prefix)  # raises a ValueError that explains what is wrong with it


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion."""

    path: Path
    rejects_path: Path
    format: str
    unit: str  # of the source's boxes
    image_folder: Path
    rows_in: int  # converted + rejected
    converted: int
    rows_out: int  # equals converted, unless turns are split
    rejected: int
    reasons: dict[str, int]
    tasks: dict[str, int]
    modalities: dict[str, int]
    pictures: dict[str, int]  # rows of each remark on their images: see `data.baking`
    warnings: list[str]  # the first hundred
    warned: int  # number of all warnings
    answers: int
    unread: int  # answers with numbers in a form that is not read as a box
    resumed_at: int  # number of rows that an interrupted run had finished

    def as_json(self) -> dict[str, Any]:
        """The same with plain paths."""
        return asdict(self) | {key: str(getattr(self, key)) for key in ("path", "rejects_path", "image_folder")}
