# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Finds the rows that are not whole before the first step: without a media file, or cut by ``cutoff_len``.

Stock cuts in silence while it tokenises. A row without some of its image tokens ends a run hundreds of steps later, a
row without its answer teaches nothing, a question without its end is answered at random.
"""

import copy
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamafactory.data.processor import (
    PackedSupervisedDatasetProcessor,
    SupervisedDatasetProcessor,
    UnsupervisedDatasetProcessor,
)

from ..utils.patching import patch_instance
from ..utils.pixels import READ_OTHERWISE, PictureError, examine_header
from .lm_head import IGNORE_INDEX


logger = logging.getLogger(__name__)

MEDIA = ("_images", "_videos", "_audios")
CUT_ROWS = "clinkd_cut_rows"
"""Column of a tokenised data set; the first row of each batch has ``[rows, [[number in batch, length, loss]]]``."""
SHOWN = 10
IMAGE, ANSWER, QUESTION, PACKED, TEXT = "image or video tokens", "its answer", "its question", "to be packed", "text"


class _Recorder:
    """Mixed into a stock processor: its ``preprocess_dataset`` adds the column :data:`CUT_ROWS`."""

    labels_count = False  # whether the labels count besides the ids

    def _encode_data_example(self, **row: Any) -> tuple[list[int], list[int]]:
        unlimited = copy.copy(self.data_args)
        unlimited.cutoff_len = 2**31
        with patch_instance(self, "data_args", unlimited):
            ids, labels = super()._encode_data_example(**row)
        length, loss = len(ids) + self.labels_count * len(labels), None
        if length > self.data_args.cutoff_len:
            whole, (ids, labels) = ids, super()._encode_data_example(**row)
            loss = IMAGE if self._media(ids) != self._media(whole) else self._loss(whole, ids, labels)
        self.__dict__.setdefault("_lost", []).append(loss and [length, loss])
        return ids, labels

    def _loss(self, whole: list[int], ids: list[int], labels: list[int]) -> str | None:
        """What is lost besides media of a row that was cut; None if nothing that matters."""
        return TEXT if any(label != IGNORE_INDEX for label in labels[1:]) else ANSWER

    def _media(self, ids: list[int]) -> int:
        tokens = (getattr(self.template.mm_plugin, f"{kind}_token", None) for kind in ("image", "video", "audio"))
        media = {self.tokenizer.convert_tokens_to_ids(token) for token in tokens if token}
        return sum(each in media for each in ids)

    def preprocess_dataset(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        self._lost = []
        batch = super().preprocess_dataset(examples)
        lost = [[number, *loss] for number, loss in enumerate(self.__dict__.pop("_lost")) if loss is not None]
        first = json.dumps([len(examples["_prompt"]), lost])
        batch[CUT_ROWS] = [first, *[""] * (len(batch["input_ids"]) - 1)]
        return batch

    def print_data_example(self, example: dict[str, Any]) -> None:
        """In place of stock's, which logs the text of the first row, perhaps a patient's."""
        supervised = sum(label >= 0 for label in example["labels"])
        print(f"{len(example['input_ids'])} tokens, {supervised} labels (ClinKD prints no text)")


class RecordedSupervised(_Recorder, SupervisedDatasetProcessor):
    """Stock's processor of training rows."""


class RecordedPacked(_Recorder, PackedSupervisedDatasetProcessor):
    """Stock's processor that packs training rows, each of which must be whole."""

    def _loss(self, whole: list[int], ids: list[int], labels: list[int]) -> str | None:
        return PACKED


class RecordedUnsupervised(_Recorder, UnsupervisedDatasetProcessor):
    """Stock's processor of rows to answer: ids of the question, labels of the answer, together in ``cutoff_len``."""

    labels_count = True

    def _loss(self, whole: list[int], ids: list[int], labels: list[int]) -> str | None:
        return QUESTION if len(ids) < len(whole) else None


RECORDED = {each.__bases__[1].__name__: each for each in (RecordedSupervised, RecordedPacked, RecordedUnsupervised)}
"""Names in ``llamafactory.data.loader`` -> what replaces them."""


def without_cut_rows(tokenized: Any, aligned: Any, data_args: Any, *, strict: bool) -> Any:
    """Takes the column :data:`CUT_ROWS` out of a tokenised data set, whose rows before tokenising are ``aligned``.

    ``data_args`` are stock's, which takes one token off ``cutoff_len`` for ``packing``.

    Raises:
        ValueError: If ``strict`` and rows lost more than text. Lost text is reported in a warning, as is all else
            without ``strict``.
    """
    lost, start = [], 0
    for record in tokenized[CUT_ROWS]:
        if record:
            rows, cut = json.loads(record)
            lost += [(start + number, length, loss) for number, length, loss in cut]
            start += rows
    tokenized = tokenized.remove_columns(CUT_ROWS)
    reserved = int(bool(data_args.packing))
    cutoff_len, lost = data_args.cutoff_len + reserved, [(row, length + reserved, loss) for row, length, loss in lost]
    worst = [each for each in lost if each[2] != TEXT]
    if strict and worst:
        raise ValueError(describe_cut_rows(worst, aligned, cutoff_len))
    if lost:
        logger.warning("%s", describe_cut_rows(lost, aligned, cutoff_len))
    return tokenized


def describe_cut_rows(lost: list[tuple[int, int, str]], aligned: Any, cutoff_len: int) -> str:
    """The rows by number, length in tokens and loss, and what to do."""
    lines = []
    for number, length, loss in lost[:SHOWN]:
        row = aligned[number]
        name = row.get("_clinkd_row") or f"row {number + 1}"
        identifier = f" (id {row['_clinkd_id']})" if row.get("_clinkd_id") else ""
        lines.append(
            f"{name}{identifier} has {length} tokens{', too long' if loss == PACKED else ' and loses'} {loss}"
        )
    more = f"; and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
    longest = max(length for _, length, _ in lost)
    return (
        f"`cutoff_len: {cutoff_len}` cuts {len(lost)} of {len(aligned)} rows: {'; '.join(lines)}{more}. Raise it to "
        f"{longest}, lower `image_max_pixels` (`video_max_pixels`, `video_maxlen`), or take these rows out."
    )


def check_media(aligned: Any) -> None:
    """Checks each file that LLaMA-Factory's aligned rows name, images by their header and their end marker.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If an image cannot be opened, is truncated, or has a side 200 times the other.
    """
    checked: set[str] = set()
    remarks: Counter[str] = Counter()
    for column in (name for name in MEDIA if name in aligned.column_names):
        for number, files in enumerate(aligned[column]):
            for file in (file for file in media_paths(files) if file not in checked):
                checked.add(file)
                problem = _media_problem(Path(file), column == "_images", remarks)
                if problem is not None:
                    row = aligned[number]
                    name = row["_clinkd_id"] or Path(file).stem
                    error = FileNotFoundError if problem == "does not exist" else ValueError
                    kind = "Image" if column == "_images" else "File"
                    where = f"{kind} {file} of row {name} {problem} ({row['_clinkd_row']})"
                    raise error(f"{where}. Run `clinkd data check` for the whole list.")
    if remarks:
        logger.warning(
            "Images of which LLaMA-Factory's API and vLLM get other pixels than this run (see docs/data.md): %s. "
            "`clinkd data convert` writes PNG files that all read alike.",
            ", ".join(f"{count} with {code}" for code, count in sorted(remarks.items())),
        )


def media_paths(value: Any) -> Iterator[str]:
    """The paths in a media column's value: a path, ``{"path": ...}`` without bytes, or lists of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and value.get("bytes") is None:
        yield from media_paths(value.get("path"))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from media_paths(each)


def _media_problem(path: Path, is_image: bool, remarks: Counter[str]) -> str | None:
    """What is wrong with a file, as the header and end marker of an image show; ``remarks`` counts what is unusual."""
    if not path.exists():
        return "does not exist"
    if not is_image:
        return None if path.is_file() and path.stat().st_size else "is empty, or a folder"
    try:
        remarks.update(examine_header(path).keys() & READ_OTHERWISE)
    except (OSError, PictureError) as error:
        if getattr(error, "code", "") != "image_small":  # LLaMA-Factory enlarges it
            return f"cannot be used: {error}"
    return None
