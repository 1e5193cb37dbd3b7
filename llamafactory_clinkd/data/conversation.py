# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What every format of `clinkd data convert` becomes: a :class:`Conversation`; and the fields that make one."""

import base64
import binascii
import math
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..utils.boxes import IMAGE_PLACEHOLDER
from .coordinates import Size, Unit
from .images import relative_path
from .problems import Reject
from .sharegpt import as_list


_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_IMG_TAG = re.compile(r"(?:Picture\s+\d+:\s*)?<img>(.*?)</img>", re.DOTALL)
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_COLUMNS = {  # of a converted row: the names that sources give them
    "answer_type": ("answer_type",),
    "content_type": ("content_type", "question_type"),
    "organ": ("organ", "image_organ", "location"),
    "language": ("language", "q_lang"),
    "question_id": ("question_id", "qid"),
    "patient": ("patient", "patient_id", "subject_id"),
}


@dataclass(frozen=True)
class Embedded:
    """A picture inside its row, as Parquet files hold them, and the name it may have."""

    content: bytes
    name: str = ""


@dataclass
class Conversation:
    """One row of a source: texts unchanged, paths relative to the data folder."""

    id: str
    images: list[str | Embedded]
    turns: list[list[str]]  # of question and answer
    system: str | None = None
    task: str | None = None  # the source's own, like the modality
    modality: Any = None
    unit: Unit | None = None  # of its boxes, where the format fixes it
    size: Size | None = None  # width and height in pixels that its boxes refer to, where the row has them
    columns: dict[str, Any] = field(default_factory=dict)  # kept for the evaluation


def text_of(value: Any, what: str) -> str:
    """Text as it is; a finite number (VQA-RAD counts gallstones: ``4``) becomes its digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return repr(value)
    raise Reject("wrong_type", f"{what!r} should be text, is {type(value).__name__} ({str(value)[:40]})")


def field_of(row: Mapping[str, Any], *names: str) -> str:
    """The text of the first of the fields ``names`` that exists."""
    name = next((name for name in names if name in row), None)
    if name is None:
        raise Reject("missing_field", f"no {names[0]!r} among {', '.join(map(str, list(row)[:12]))}")
    return text_of(row[name], name)


def objects_of(row: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A field that is a list of objects."""
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Reject("wrong_type", f"{name!r} should be a list of objects, is {str(value)[:40]!r}")
    return value


def number_of(row: Mapping[str, Any], name: str) -> float:
    """A finite number; a text of one, as CSV files have it, counts."""
    try:
        value = float(row[name])
    except (KeyError, TypeError, ValueError) as error:
        raise Reject("bad_box", f"{name!r} should be a number, is {str(row.get(name))[:40]!r}") from error
    if not math.isfinite(value):
        raise Reject("bad_box", f"{name!r} is {value}")
    return value


def size_of(row: Mapping[str, Any]) -> Size | None:
    """``width`` and ``height`` of a row that has both."""
    if row.get("width") in (None, "") or row.get("height") in (None, ""):
        return None
    size = number_of(row, "width"), number_of(row, "height")
    if min(size) <= 0:
        raise Reject("box_scale", f"the row says that its picture has {size[0]:g} x {size[1]:g} pixels")
    return size


def image_of(value: Any) -> str | Embedded:
    """A path, or the picture itself: bytes, Parquet's ``{"bytes", "path"}`` or a ``data:`` URI."""
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():
        name = value.get("path") if isinstance(value.get("path"), str) else ""
        value = Embedded(value["bytes"], name) if isinstance(value.get("bytes"), bytes) else name
    if isinstance(value, bytes):
        return Embedded(value)
    if isinstance(value, str) and (uri := _DATA_URI.match(value)):
        try:
            return Embedded(base64.b64decode(value[uri.end() :], validate=True))
        except binascii.Error as error:
            raise Reject("image_unreadable", f"a data URI that is not base64: {error}") from error
    return value if isinstance(value, Embedded) else relative_path(value)


def kept_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """What evaluation groups by, under one name each (texts), and ``annotations`` if there are several references."""
    columns = {}
    for column, names in _COLUMNS.items():
        value = next((row[name] for name in names if row.get(name) not in (None, "")), None)
        if isinstance(value, str | int) and not isinstance(value, bool):
            columns[column] = str(value)
    references = next((row[name] for name in ("annotations", "answers", "references", "answer") if name in row), None)
    if isinstance(references, list):
        texts = [reference.get("answer") if isinstance(reference, dict) else reference for reference in references]
        texts = [text for text in texts if isinstance(text, str) and text.strip()]
        columns |= {"annotations": texts} if len(texts) > 1 else {}
    return columns


def messages_of(
    value: Any, role_key: str = "from", text_key: str = "value"
) -> tuple[str | None, list[list[str]], list[Any]]:
    """System prompt, turns and images of a list of messages, whose content is text or a list of parts."""
    system, texts, images = None, [], []
    for number, message in enumerate(_list(value), start=1):
        if not isinstance(message, dict):
            raise Reject("wrong_type", f"message {number} should be an object, is {type(message).__name__}")
        name = field_of(message, role_key)
        role = _ROLES.get(name.strip().lower())
        if role is None:
            raise Reject("unknown_role", f"message {number} is from {name[:40]!r}")
        if isinstance(message.get(text_key), list):
            text, pictures = _parts(message[text_key], number)
            images += pictures
        else:
            text = field_of(message, text_key)
        lost = [key for key in ("reasoning_content", "tool_calls", "audio") if message.get(key)]
        lost += ["loss_weight"] if role == "assistant" and message.get("loss_weight", 1) not in (1, None) else []
        if lost:
            raise Reject("wrong_type", f"message {number} has {', '.join(lost)}, which would be lost")
        expected = "assistant" if len(texts) % 2 else "user"
        if role == "system" and number == 1:
            system = text
        elif role != expected:
            raise Reject("turn_order", f"message {number} is from {role}, expected {expected}")
        else:
            texts.append(text)
    if len(texts) % 2:
        raise Reject("turn_order", "the last question has no answer")
    return system, [texts[index : index + 2] for index in range(0, len(texts), 2)], images


def _parts(parts: list[Any], number: int) -> tuple[str, list[Any]]:
    """Text and images of a content list: OpenAI's, and LLaMA-Factory v1's with ``value``."""
    text, images = "", []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text", "output_text"):
            text += field_of(part, "text", "value")
        elif kind in ("image", "image_url", "input_image"):
            value = next((part[key] for key in ("image_url", "image", "value", "url") if part.get(key)), None)
            images.append(value.get("url") if isinstance(value, dict) and "url" in value else value)
            text += IMAGE_PLACEHOLDER
        else:
            raise Reject("wrong_type", f"message {number} has a part of type {str(kind)[:40]!r}, not text or image")
    return text, [image for image in images if image is not None]  # without: the row's own list has the images


def pairs_of(value: Any) -> list[list[str]]:
    """Turns of a list of [question, answer]."""
    turns = []
    for number, pair in enumerate(_list(value), start=1):
        if not isinstance(pair, list):
            raise Reject("wrong_type", f"turn {number} should be [question, answer], is {type(pair).__name__}")
        if len(pair) != 2:
            raise Reject("turn_order", f"turn {number} has {len(pair)} entries, expected [question, answer]")
        turns.append([text_of(pair[0], "question"), text_of(pair[1], "answer")])
    return turns


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Reject("wrong_type", f"the conversation should be a list, is {type(value).__name__}")
    return value


def conversation(identity: str, images: Any, turns: list[list[str]], **rest: Any) -> Conversation:
    """Replaces ``<img>path</img>`` by ``<image>``, once per image; without other images, the tags name them."""
    images = [image_of(image) for image in as_list(images)]
    if not has_img_tag(turns):
        return Conversation(identity, images, turns, **rest)
    images = images or [relative_path(tag) for tag in dict.fromkeys(img_tags(turns))]
    names = [image.name if isinstance(image, Embedded) else image for image in images]
    stems = {stem(name) for name in names}
    unplaced = set(stems)

    def placeholder(match: re.Match) -> str:
        tagged = stem(match[1])
        if tagged not in stems:
            raise Reject("image_mismatch", f"the tag names {match[1].strip()[:80]!r}, the row {names[0][:80]!r}")
        if tagged not in unplaced:
            return ""
        unplaced.remove(tagged)
        return IMAGE_PLACEHOLDER

    replaced = [[_IMG_TAG.sub(placeholder, question), answer] for question, answer in turns]
    if has_img_tag(replaced):
        in_answer = any("<img>" in answer for _, answer in replaced)
        raise Reject("image_in_answer" if in_answer else "image_count", "an <img> tag that is alone or not closed")
    return Conversation(identity, images, replaced, **rest)


def img_tags(turns: list[list[str]]) -> list[str]:
    """The paths in the ``<img>`` tags of the questions."""
    return [tag.strip() for question, _ in turns for tag in _IMG_TAG.findall(question)]


def has_img_tag(turns: list[list[str]]) -> bool:
    """Whether a text holds an opening or a closing ``<img>`` tag."""
    return any("<img>" in text or "</img>" in text for turn in turns for text in turn)


def stem(path: str) -> str:
    """The file name without extension: the tags of Med-GRIT hold paths of the authors' machines, with either slash."""
    return posixpath.splitext(posixpath.basename(path.strip().replace("\\", "/")))[0]
