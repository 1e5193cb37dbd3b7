# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The formats that `clinkd data convert` reads: a table of how each is recognized and parsed.

A new format is a parser, which turns a row into a :class:`Conversation` or raises :class:`Reject`, and its entry in
``FORMATS``.
"""

import math
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..utils.boxes import IMAGE_PLACEHOLDER
from .images import relative_path
from .problems import Reject
from .scans import is_scan
from .sharegpt import as_list


_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
Parser = Callable[[Mapping[str, Any]], "Conversation"]
_IMG_TAG = re.compile(r"(?:Picture\s+\d+:\s*)?<img>(.*?)</img>", re.DOTALL)


@dataclass
class Conversation:
    """One row of a source: texts unchanged, paths relative to the data folder."""

    id: str
    images: list[str]
    turns: list[list[str]]  # of question and answer
    system: str | None = None
    task: str | None = None  # the source's own, like the modality
    modality: Any = None


@dataclass(frozen=True)
class Format:
    """One format: ``matches`` recognizes its rows, ``parse`` reads one or raises :class:`Reject`."""

    name: str
    description: str
    matches: Callable[[Mapping[str, Any]], bool]
    parse: Parser


def _text(value: Any, what: str) -> str:
    """Text as it is; a finite number (VQA-RAD counts gallstones: ``4``) becomes its digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return repr(value)
    raise Reject("wrong_type", f"{what!r} should be text, is {type(value).__name__} ({str(value)[:40]})")


def _field(row: Mapping[str, Any], field: str) -> str:
    if field not in row:
        raise Reject("missing_field", f"no {field!r} among {', '.join(map(str, list(row)[:12]))}")
    return _text(row[field], field)


def _turns(value: Any, role_key: str = "from", text_key: str = "value") -> tuple[str | None, list[list[str]]]:
    """System prompt and turns of a list of messages."""
    system, texts = None, []
    for number, message in enumerate(_list(value), start=1):
        if not isinstance(message, dict):
            raise Reject("wrong_type", f"message {number} should be an object, is {type(message).__name__}")
        name, text = _field(message, role_key), _field(message, text_key)
        role = _ROLES.get(name.strip().lower())
        if role is None:
            raise Reject("unknown_role", f"message {number} is from {name[:40]!r}")
        expected = "assistant" if len(texts) % 2 else "user"
        if role == "system" and number == 1:
            system = text
        elif role != expected:
            raise Reject("turn_order", f"message {number} is from {role}, expected {expected}")
        else:
            texts.append(text)
    if len(texts) % 2:
        raise Reject("turn_order", "the last question has no answer")
    return system, [texts[index : index + 2] for index in range(0, len(texts), 2)]


def _pairs(value: Any) -> list[list[str]]:
    """Turns of a list of [question, answer]."""
    turns = []
    for number, pair in enumerate(_list(value), start=1):
        if not isinstance(pair, list):
            raise Reject("wrong_type", f"turn {number} should be [question, answer], is {type(pair).__name__}")
        if len(pair) != 2:
            raise Reject("turn_order", f"turn {number} has {len(pair)} entries, expected [question, answer]")
        turns.append([_text(pair[0], "question"), _text(pair[1], "answer")])
    return turns


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Reject("wrong_type", f"the conversation should be a list, is {type(value).__name__}")
    return value


def _conversation(identity: str, images: list[Any], turns: list[list[str]], **rest: Any) -> Conversation:
    """Replaces ``<img>path</img>`` by ``<image>``, once per image; without other images, the tags name them."""
    images = [relative_path(image) for image in images]
    if not _has_img_tag(turns):
        return Conversation(identity, images, turns, **rest)
    tagged = [tag.strip() for question, _ in turns for tag in _IMG_TAG.findall(question)]
    images = images or [relative_path(tag) for tag in dict.fromkeys(tagged)]
    stems = {_stem(image) for image in images}
    unplaced = set(stems)

    def placeholder(match: re.Match) -> str:
        stem = _stem(match[1])
        if stem not in stems:
            raise Reject("image_mismatch", f"the tag names {match[1].strip()[:80]!r}, the row {images[0][:80]!r}")
        if stem not in unplaced:
            return ""
        unplaced.remove(stem)
        return IMAGE_PLACEHOLDER

    replaced = [[_IMG_TAG.sub(placeholder, question), answer] for question, answer in turns]
    if _has_img_tag(replaced):
        in_answer = any("<img>" in answer for _, answer in replaced)
        raise Reject("image_in_answer" if in_answer else "image_count", "an <img> tag that is alone or not closed")
    return Conversation(identity, images, replaced, **rest)


def _has_img_tag(turns: list[list[str]]) -> bool:
    return any("<img>" in text or "</img>" in text for turn in turns for text in turn)


def _stem(path: str) -> str:
    """The file name without extension: the tags of Med-GRIT hold paths of the authors' machines, with either slash."""
    return posixpath.splitext(posixpath.basename(path.strip().replace("\\", "/")))[0]


def _med_grit(row: Mapping[str, Any]) -> Conversation:
    identity = _field(row, "id")
    if not identity.strip():
        raise Reject("missing_field", "the id, which names the image, is empty")
    has_extension = is_scan(identity) or identity.lower().endswith((".png", ".jpg", ".jpeg"))
    images = [identity if has_extension else identity + ".png"]
    value = row.get("conversations")
    system, turns = _turns(value) if isinstance(_first(value), dict) else (None, _pairs(value))
    return _conversation(identity, images, turns, system=system, task=row.get("task"))


def _question_answer(identity: str, image: str, question: str, *answers: str, modality: str = "") -> Parser:
    """The parser of rows of one turn, given their keys; the answer is under the first of ``answers`` that exists."""

    def parse(row: Mapping[str, Any]) -> Conversation:
        answer = next((key for key in answers if key in row), answers[-1])
        turns = [[_field(row, question), _field(row, answer)]]
        return _conversation(_field(row, identity), [_field(row, image)], turns, modality=row.get(modality))

    return parse


_vqa_rad = _question_answer("qid", "image_name", "question", "answer")
_qa50 = _question_answer("question_id", "image", "text", "gpt4_answer", "answer", modality="domain")
_slake_in_any_language = _question_answer("qid", "img_name", "question", "answer", modality="modality")


def _slake(row: Mapping[str, Any]) -> Conversation:
    if _field(row, "q_lang").strip().lower() != "en":
        raise Reject("not_english", f"q_lang is {row['q_lang']!r}")
    return _slake_in_any_language(row)


def _llava_med(row: Mapping[str, Any]) -> Conversation:
    system, turns = _turns(_llava_med_messages(row))
    modality = row.get("domain", row.get("modality"))
    return _conversation(_field(row, "id"), as_list(row.get("image")), turns, system=system, modality=modality)


def _llava_med_messages(row: Mapping[str, Any]) -> Any:
    return row.get("conversations", row.get("conversatons"))  # the published instruction files misspell the key


def _sharegpt(row: Mapping[str, Any]) -> Conversation:
    keys = ("messages", "role", "content") if "messages" in row else ("conversations", "from", "value")
    system, turns = _turns(row.get(keys[0]), *keys[1:])
    if row.get("system"):
        system = _field(row, "system")
    identity = _field(row, "id") if row.get("id") is not None else ""
    images = as_list(row.get("images", row.get("image")))
    return _conversation(identity, images, turns, system=system, task=row.get("task"), modality=row.get("modality"))


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: set(keys) <= row.keys()


def _is_llava_med(row: Mapping[str, Any]) -> bool:
    return {"id", "image"} <= row.keys() and isinstance(_first(_llava_med_messages(row)), dict)


def _is_sharegpt(row: Mapping[str, Any]) -> bool:
    return "messages" in row or ("conversations" in row and ("images" in row or "id" not in row))


def _is_med_grit(row: Mapping[str, Any]) -> bool:
    return "id" in row and isinstance(_first(row.get("conversations")), dict | list)


_FORMATS = (  # in the order of detection: a row has the first format that matches it
    Format("slake", "SLAKE (its English rows)", _has("img_name", "q_lang"), _slake),
    Format("vqa_rad", "VQA-RAD", _has("image_name", "question"), _vqa_rad),
    Format("llava_med_qa", "LLaVA-Med questions, such as its qa50 file", _has("question_id", "text", "image"), _qa50),
    Format("llava_med", "LLaVA-Med instructions", _is_llava_med, _llava_med),
    Format("sharegpt", "plain ShareGPT", _is_sharegpt, _sharegpt),
    Format("med_grit", "Med-GRIT-270k / BiRD, training or test part", _is_med_grit, _med_grit),
)
FORMATS = {format.name: format for format in _FORMATS}


def detect_format(rows: Iterable[Mapping[str, Any]]) -> Format:
    """The format that most of ``rows`` match; a ValueError that lists the formats and the keys found if none fits."""
    rows = list(rows)
    matches = (next((kind for kind in _FORMATS if kind.matches(row)), None) for row in rows)
    votes = Counter(kind.name for kind in matches if kind)
    if votes:
        return FORMATS[votes.most_common(1)[0][0]]
    keys = ", ".join(sorted({str(key) for row in rows for key in row})[:20]) or "none"
    known = "; ".join(f"{kind.name}: {kind.description}" for kind in FORMATS.values())
    raise ValueError(f"No known format fits. Keys found: {keys}. Name one with --format: {known}.")
