# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""From a conversation as its source has it to rows of the ShareGPT file: checked, cleaned, with their side columns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.boxes import TASKS, TagStyle, convert_tags, task_of
from .formats import IMAGE, Conversation
from .image_names import known_modality, relative_path
from .rejects import Reject
from .scans import Slice, Window, is_scan, scan_to_png
from .sharegpt import sharegpt_row
from .text import Coordinates, check_unicode, clean_text


MIXED = "MIXED"  # the task of a row whose turns have different ones


@dataclass(frozen=True)
class Options:
    """How rows are made.

    Args:
        tags: Style of the ref and box tags.
        coordinates: What the numbers of a box in the source are.
        split_turns: One row a turn, ids ``x#1``, ``x#2`` ...; else a conversation stays one row.
        image_folder: The data folder (LLaMA-Factory's ``media_dir``); needed for scans only.
        image_prefix: Put before every image path, for instance ``images``.
        default_slice: Of volumes whose path names none.
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
            relative_path(self.image_prefix)  # a ValueError that says what is wrong with it


def build_rows(conversation: Conversation, options: Options) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one conversation, and warnings about its scans.

    Side columns: ``id``; ``task``, the source's own or worked out from the boxes, ``MIXED`` where a row's turns
    differ; ``modality``, the source's own or told by the image's name, else ``unknown``.

    Raises:
        Reject: If anything in the conversation keeps it from training; none of its turns is then used.
    """
    turns = [_turn(turn, options.coordinates) for turn in conversation.turns]
    if not turns:
        raise Reject("no_turns", "expected a question and an answer")
    _match_placeholders(conversation.images, turns)
    system = clean_text(conversation.system, options.coordinates) if conversation.system else None
    check_unicode(conversation.id)

    prefix = options.image_prefix.strip("/")
    images = [f"{prefix}/{image}" if prefix else image for image in conversation.images]
    modality = known_modality(conversation.modality, images[0] if images else None)
    images, warnings = _pictures(images, modality, options)

    if options.split_turns and len(turns) > 1:
        parts = [([_alone(turn, images)], f"{conversation.id}#{n}") for n, turn in enumerate(turns, start=1)]
    else:
        parts = [(turns, conversation.id)]
    rows = []
    for part, name in parts:
        side = {"id": name, "task": _task(conversation.task, part), "modality": modality}
        rows.append(_row(part, images, system, side, options.tags))
    return rows, warnings


def _turn(turn: list[str], coordinates: Coordinates) -> list[str]:
    question, answer = (clean_text(text, coordinates) for text in turn)
    if not question.replace(IMAGE, "").strip():
        raise Reject("empty_question", f"its answer is {answer[:60]!r}")
    if not answer.replace(IMAGE, "").strip():
        raise Reject("empty_answer", f"to {question[:60]!r}")
    if IMAGE in answer:
        raise Reject("image_in_answer", f"in {answer[:60]!r}")
    return [question, answer]


def _match_placeholders(images: list[str], turns: list[list[str]]) -> None:
    found = sum(question.count(IMAGE) for question, _ in turns)
    if found not in (0, len(images)):
        raise Reject("image_count", f"{found} <image> placeholders, {len(images)} images")


def _pictures(images: list[str], modality: str, options: Options) -> tuple[list[str], list[str]]:
    """Replaces scans by the PNG made of them."""
    pictures, warnings = [], []
    for image in images:
        if is_scan(image):
            image, notes = scan_to_png(
                options.image_folder,
                image,
                modality=modality,
                default_slice=options.default_slice,
                window=options.window,
            )
            warnings += notes
        pictures.append(image)
    return pictures, warnings


def _alone(turn: list[str], images: list[str]) -> list[str]:
    """A turn that stands alone sees every image of its conversation."""
    question, answer = turn
    if question.count(IMAGE) != len(images):
        question = IMAGE * len(images) + question.replace(IMAGE, "")
    return [question, answer]


def _task(given: Any, turns: list[list[str]]) -> str:
    if isinstance(given, str) and given.strip().upper() in TASKS:
        return given.strip().upper()
    tasks = {task_of(question, answer) for question, answer in turns}
    return tasks.pop() if len(tasks) == 1 else MIXED


def _row(
    turns: list[list[str]], images: list[str], system: str | None, side: dict[str, str], tags: TagStyle
) -> dict[str, Any]:
    """The row as :func:`sharegpt_row` writes it, which knows one image at most, and no system prompt."""
    row = sharegpt_row({"turns": turns, "image": images[0] if images else None, **side}, tags=tags)
    if len(images) > 1:
        row["images"] = images
        if any(IMAGE in question for question, _ in turns):  # where each image stands matters: keep it
            for message, (question, _) in zip(row["messages"][::2], turns, strict=True):
                message["content"] = convert_tags(question.strip(), tags)
        else:
            row["messages"][0]["content"] = IMAGE * (len(images) - 1) + row["messages"][0]["content"]
    if system:
        row["messages"].insert(0, {"role": "system", "content": convert_tags(system.strip(), tags)})
    return row
