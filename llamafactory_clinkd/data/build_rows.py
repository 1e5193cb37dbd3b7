# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""From a conversation as its source has it to rows of the ShareGPT file: validated, cleaned, with side columns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.boxes import TASKS, TagStyle, task_of
from .formats import Conversation
from .images import known_modality, relative_path
from .problems import Reject
from .scans import Slice, Window, is_scan, scan_to_png
from .sharegpt import IMAGE_PLACEHOLDER, sharegpt_row
from .text import Coordinates, check_unicode, clean_text


MIXED = "MIXED"  # the task of a row whose turns have different ones


@dataclass(frozen=True)
class Options:
    """How rows are built.

    Args:
        tags: Style of the ref and box tags.
        coordinates: What the numbers of a box in the source are.
        split_turns: One row per turn, with ids ``x#1``, ``x#2`` ...; else a conversation stays one row.
        image_folder: The data folder (LLaMA-Factory's ``media_dir``); needed for scans only.
        image_prefix: Put before every image path, for instance ``images``.
        default_slice: Slice of volumes whose path names none.
        window: Centre and width in HU for CT, instead of the file's own.
    """

    tags: TagStyle = "qwen2_vl"
    coordinates: Coordinates = "auto"
    split_turns: bool = False
    image_folder: str | Path = "."
    image_prefix: str = ""
    default_slice: Slice = Slice()
    window: Window | None = None

    def __post_init__(self) -> None:
        if self.image_prefix:
            relative_path(self.image_prefix)  # raises a ValueError that explains what is wrong with it


def build_rows(conversation: Conversation, options: Options) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one conversation, and warnings about its scans.

    Side columns: ``id``; ``task``, from the source or derived from the boxes, ``MIXED`` if the turns of a row differ;
    ``modality``, from the source or the image's name, else ``unknown``.

    Raises:
        Reject: If any part of the conversation is unusable; none of its turns is then used.
    """
    turns = [_clean_turn(turn, options.coordinates) for turn in conversation.turns]
    if not turns:
        raise Reject("no_turns", "expected a question and an answer")
    placeholders = sum(question.count(IMAGE_PLACEHOLDER) for question, _ in turns)
    if placeholders not in (0, len(conversation.images)):
        raise Reject("image_count", f"{placeholders} <image> placeholders, {len(conversation.images)} images")
    system = clean_text(conversation.system, options.coordinates) if conversation.system else None
    check_unicode(conversation.id)

    prefix = options.image_prefix.strip("/")
    paths = [f"{prefix}/{image}" if prefix else image for image in conversation.images]
    modality = known_modality(conversation.modality, paths[0] if paths else None)
    images, warnings = _convert_scans(paths, modality, options)

    turns_by_id = {conversation.id: turns}
    if options.split_turns and len(turns) > 1:
        turns_by_id = {
            f"{conversation.id}#{number}": [_with_all_images(turn, len(images))]
            for number, turn in enumerate(turns, start=1)
        }
    rows = []
    for name, row_turns in turns_by_id.items():
        row = {"turns": row_turns, "images": images, "system": system, "id": name, "modality": modality}
        rows.append(sharegpt_row(row | {"task": _task(conversation.task, row_turns)}, tags=options.tags))
    return rows, warnings


def _clean_turn(turn: list[str], coordinates: Coordinates) -> list[str]:
    question, answer = (clean_text(text, coordinates) for text in turn)
    if not question.replace(IMAGE_PLACEHOLDER, "").strip():
        raise Reject("empty_question", f"its answer is {answer[:60]!r}")
    if not answer.replace(IMAGE_PLACEHOLDER, "").strip():
        raise Reject("empty_answer", f"to {question[:60]!r}")
    if IMAGE_PLACEHOLDER in answer:
        raise Reject("image_in_answer", f"in {answer[:60]!r}")
    return [question, answer]


def _convert_scans(paths: list[str], modality: str, options: Options) -> tuple[list[str], list[str]]:
    """Replaces each scan by the PNG of its slice; also returns warnings."""
    images, warnings = [], []
    for path in paths:
        if is_scan(path):
            path, scan_warnings = scan_to_png(
                options.image_folder,
                path,
                modality=modality,
                default_slice=options.default_slice,
                window=options.window,
            )
            warnings += scan_warnings
        images.append(path)
    return images, warnings


def _with_all_images(turn: list[str], images: int) -> list[str]:
    """A turn that becomes a row shows every image of its conversation."""
    question, answer = turn
    if question.count(IMAGE_PLACEHOLDER) != images:
        question = IMAGE_PLACEHOLDER * images + question.replace(IMAGE_PLACEHOLDER, "")
    return [question, answer]


def _task(source_task: Any, turns: list[list[str]]) -> str:
    if isinstance(source_task, str) and source_task.strip().upper() in TASKS:
        return source_task.strip().upper()
    tasks = {task_of(question, answer) for question, answer in turns}
    return tasks.pop() if len(tasks) == 1 else MIXED
