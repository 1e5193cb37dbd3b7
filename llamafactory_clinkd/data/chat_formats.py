# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Conversations: ShareGPT, OpenAI content lists, LLaMA-Factory v1, ms-swift, Qwen's fine-tuning files and Alpaca."""

import json
import re
from collections.abc import Mapping
from typing import Any

from .conversation import Conversation, conversation, field_of, img_tags, messages_of, pairs_of, size_of, stem, text_of
from .problems import Reject
from .sharegpt import as_list


_SWIFT_TAG = re.compile(r"<ref-object>|<bbox>(?!\s*[\d(\[])")
_SWIFT_UNITS = {"real": "pixels", "norm1": "fractions", "norm1000": "thousandths"}


def first(value: Any) -> Any:
    """The first item of a list that has one."""
    return value[0] if isinstance(value, list) and value else None


def is_sharegpt(row: Mapping[str, Any]) -> bool:
    """``messages``, or ``conversations`` with ``images`` or without ``id``: those with one are Med-GRIT's."""
    return "messages" in row or ("conversations" in row and ("images" in row or "id" not in row))


def sharegpt(row: Mapping[str, Any]) -> Conversation:
    """ShareGPT rows; also OpenAI's and LLaMA-Factory v1's, whose messages hold lists of text and images."""
    keys = ("messages", "role", "content") if "messages" in row else ("conversations", "from", "value")
    system, turns, images = messages_of(row.get(keys[0]), *keys[1:])
    beside = row.get("images", row.get("image"))
    if images and beside:
        raise Reject("image_count", "images in the messages and in a list beside them")
    return _conversation(row, images or beside, turns, system)


def _conversation(row: Mapping[str, Any], images: Any, turns: list[list[str]], system: str | None) -> Conversation:
    identity = field_of(row, "id") if row.get("id") is not None else ""
    system = field_of(row, "system") if row.get("system") else system
    return conversation(identity, images, turns, system=system, task=row.get("task"), modality=row.get("modality"))


def is_content_list(row: Mapping[str, Any]) -> bool:
    """Messages with a list of parts."""
    messages = row.get("messages")
    return isinstance(messages, list) and any(
        isinstance(message, dict) and isinstance(message.get("content"), list) for message in messages
    )


def swift(row: Mapping[str, Any]) -> Conversation:
    """ms-swift's grounding rows: each ``<ref-object>`` and ``<bbox>`` stands for the next entry of ``objects``.

    ``objects.bbox_type`` names the unit; without it, it is worked out like that of any file (ms-swift's own default
    are pixels).
    """
    parsed = alpaca(row) if "query" in row else sharegpt(row)
    objects = row.get("objects")
    if isinstance(objects, str):
        try:
            objects = json.loads(objects)
        except ValueError as error:
            raise Reject("bad_box", f"objects are no JSON: {error}") from error
    if not isinstance(objects, dict) or not all(isinstance(objects.get(key, []), list) for key in ("ref", "bbox")):
        raise Reject("bad_box", "objects should hold the lists 'ref' and 'bbox'")
    kind = objects.get("bbox_type")
    if kind is not None and kind not in _SWIFT_UNITS:
        raise Reject("bad_box", f"bbox_type is {str(kind)[:40]!r}: expected one of {', '.join(_SWIFT_UNITS)}")
    references, boxes = list(objects.get("ref", [])), list(objects.get("bbox", []))
    sizes = {
        (width, height) for width, height in zip(*map(as_list, map(objects.get, ("width", "height"))), strict=False)
    }
    if len(sizes) > 1:
        raise Reject("box_scale", f"boxes of pictures of {len(sizes)} sizes")

    def filled(match: re.Match) -> str:
        queue = references if match[0] == "<ref-object>" else boxes
        if not queue:
            raise Reject("bad_box", f"more {match[0]} than entries in objects")
        value = queue.pop(0)
        if match[0] == "<ref-object>":
            return f"<ref>{text_of(value, 'ref')}</ref>"
        if not isinstance(value, list) or len(value) != 4:
            raise Reject("bad_box", f"a bbox should have four numbers, is {str(value)[:60]}")
        return "<box>({},{}),({},{})</box>".format(*value)

    parsed.turns = [[_SWIFT_TAG.sub(filled, text) for text in turn] for turn in parsed.turns]
    if references or boxes:
        raise Reject("bad_box", f"{len(references)} ref and {len(boxes)} bbox of objects have no place in the text")
    parsed.unit = _SWIFT_UNITS.get(kind)
    parsed.size = size_of(dict(zip(("width", "height"), sizes.pop(), strict=True))) if sizes else None
    return parsed


def is_qwen_vl(row: Mapping[str, Any]) -> bool:
    """Qwen-VL's fine-tuning rows: the tags name the images, and the ``id`` does not (Med-GRIT's does)."""
    if not isinstance(first(row.get("conversations")), dict) or {"image", "images"} & row.keys():
        return False
    questions = [[str(message.get("value")), ""] for message in row["conversations"] if isinstance(message, dict)]
    tags = img_tags(questions)
    return bool(tags) and stem(str(row.get("id", ""))) not in map(stem, tags)


def alpaca(row: Mapping[str, Any]) -> Conversation:
    """Alpaca rows; ms-swift's ``query``, ``response`` and ``history`` are alike."""
    question = field_of(row, "instruction", "query")
    if row.get("input"):
        question += "\n" + field_of(row, "input")
    turns = pairs_of(row.get("history") or []) + [[question, field_of(row, "output", "response")]]
    return _conversation(row, row.get("images", row.get("image")), turns, None)
