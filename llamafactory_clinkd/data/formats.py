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

from .images import relative_path
from .problems import Reject
from .scans import is_scan
from .sharegpt import IMAGE_PLACEHOLDER, as_list


_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_IMG_TAG = re.compile(r"(?:Picture\s+\d+:\s*)?<img>(.*?)</img>", re.DOTALL)
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_MISSPELT = "conversatons"  # the key of LLaVA-Med's published instruction files


@dataclass
class Conversation:
    """One row of a source: texts unchanged, paths relative to the data folder.

    ``turns`` holds [question, answer]; ``task`` and ``modality`` are the source's own, where it has them.
    """

    id: str
    images: list[str]
    turns: list[list[str]]
    system: str | None = None
    task: str | None = None
    modality: Any = None


@dataclass(frozen=True)
class Format:
    """One format: ``matches`` recognizes its rows, ``parse`` reads one or raises :class:`Reject`."""

    name: str
    description: str
    matches: Callable[[Mapping[str, Any]], bool]
    parse: Callable[[Mapping[str, Any]], Conversation]


def _field(row: Mapping[str, Any], field: str) -> str:
    """A field's text; a finite number (VQA-RAD counts gallstones: ``4``) becomes its digits."""
    if field not in row:
        raise Reject("missing_field", f"no {field!r} among {', '.join(map(str, list(row)[:12]))}")
    return _text(row[field], field)


def _text(value: Any, what: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return repr(value)
    raise Reject("wrong_type", f"{what!r} should be text, is {type(value).__name__} ({str(value)[:40]})")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Reject("wrong_type", f"the conversation should be a list, is {type(value).__name__}")
    return value


def _messages(value: Any, role_key: str, text_key: str) -> tuple[str | None, list[list[str]]]:
    """System prompt and turns of a list of messages."""
    system, turns, expected = None, [], "user"
    for index, message in enumerate(_list(value)):
        if not isinstance(message, dict):
            raise Reject("wrong_type", f"message {index + 1} should be an object, is {type(message).__name__}")
        name = _field(message, role_key)
        role, text = _ROLES.get(name.strip().lower()), _field(message, text_key)
        if role is None:
            raise Reject("unknown_role", f"message {index + 1} is from {name[:40]!r}")
        if role == "system" and index == 0:
            system = text
        elif role != expected:
            raise Reject("turn_order", f"message {index + 1} is from {role}, expected {expected}")
        elif role == "user":
            turns.append([text])
            expected = "assistant"
        else:
            turns[-1].append(text)
            expected = "user"
    if expected == "assistant":
        raise Reject("turn_order", "the last question has no answer")
    return system, turns


def _pairs(value: Any) -> list[list[str]]:
    """Turns of a list of [question, answer]."""
    turns = []
    for index, pair in enumerate(_list(value)):
        if not isinstance(pair, list):
            raise Reject("wrong_type", f"turn {index + 1} should be [question, answer], is {type(pair).__name__}")
        if len(pair) != 2:
            raise Reject("turn_order", f"turn {index + 1} has {len(pair)} entries, expected [question, answer]")
        turns.append([_text(pair[0], "question"), _text(pair[1], "answer")])
    return turns


def _tags_to_placeholders(images: list[str], turns: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Replaces ``<img>path</img>`` by ``<image>``, once per image; without other images, the tags name them.

    Only the file's name is compared with the row's image: the tags of Med-GRIT hold paths of the authors' machines.
    """
    if not any("<img>" in text or "</img>" in text for turn in turns for text in turn):
        return images, turns
    tagged = [tag.strip() for question, _ in turns for tag in _IMG_TAG.findall(question)]
    images = images or [relative_path(tag) for tag in dict.fromkeys(tagged)]
    known = frozenset(_stem(image) for image in images)
    unplaced = set(known)

    def placeholder(match: re.Match) -> str:
        stem = _stem(match[1])
        if stem not in known:
            raise Reject("image_mismatch", f"the tag names {match[1].strip()[:80]!r}, the row {images[0][:80]!r}")
        if stem not in unplaced:
            return ""
        unplaced.remove(stem)
        return IMAGE_PLACEHOLDER

    replaced = [[_IMG_TAG.sub(placeholder, question), answer] for question, answer in turns]
    if any("<img>" in text or "</img>" in text for turn in replaced for text in turn):
        in_answer = any("<img>" in answer for _, answer in replaced)
        raise Reject("image_in_answer" if in_answer else "image_count", "an <img> tag that is alone or not closed")
    return images, replaced


def _stem(path: str) -> str:
    """The file name of a path, with either slash, without its extension."""
    return posixpath.splitext(posixpath.basename(path.strip().replace("\\", "/")))[0]


def _conversation(identity: str, images: Iterable[Any], turns: list[list[str]], **rest: Any) -> Conversation:
    paths, turns = _tags_to_placeholders([relative_path(image) for image in images], turns)
    return Conversation(identity, paths, turns, **rest)


def _med_grit(row: Mapping[str, Any]) -> Conversation:
    identity = _field(row, "id")
    image = identity if identity.lower().endswith(_IMAGE_SUFFIXES) or is_scan(identity) else identity + ".png"
    if not identity.strip():
        raise Reject("missing_field", "the id, which names the image, is empty")
    system, turns = None, row.get("conversations")
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        system, turns = _messages(turns, "from", "value")
    else:
        turns = _pairs(turns)
    return _conversation(identity, [image], turns, system=system, task=row.get("task"))


def _question_answer(row: Mapping[str, Any], identity: str, image: str, question: str, answer: str, **rest: Any):
    """The conversation of a row with these four fields."""
    turns = [[_field(row, question), _field(row, answer)]]
    return _conversation(_field(row, identity), [_field(row, image)], turns, **rest)


def _vqa_rad(row: Mapping[str, Any]) -> Conversation:
    return _question_answer(row, "qid", "image_name", "question", "answer")


def _slake(row: Mapping[str, Any]) -> Conversation:
    if _field(row, "q_lang").strip().lower() != "en":
        raise Reject("not_english", f"q_lang is {row['q_lang']!r}")
    return _question_answer(row, "qid", "img_name", "question", "answer", modality=row.get("modality"))


def _llava_med_qa(row: Mapping[str, Any]) -> Conversation:
    answer = "gpt4_answer" if "gpt4_answer" in row else "answer"
    return _question_answer(row, "question_id", "image", "text", answer, modality=row.get("domain"))


def _llava_med(row: Mapping[str, Any]) -> Conversation:
    system, turns = _messages(row.get("conversations", row.get(_MISSPELT)), "from", "value")
    modality = row.get("domain", row.get("modality"))
    return _conversation(_field(row, "id"), as_list(row.get("image")), turns, system=system, modality=modality)


def _sharegpt(row: Mapping[str, Any]) -> Conversation:
    if "messages" in row:
        system, turns = _messages(row["messages"], "role", "content")
    else:
        system, turns = _messages(row.get("conversations"), "from", "value")
    if row.get("system"):
        system = _field(row, "system")
    identity = _field(row, "id") if row.get("id") is not None else ""
    images = as_list(row.get("images", row.get("image")))
    return _conversation(identity, images, turns, system=system, task=row.get("task"), modality=row.get("modality"))


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None


FORMATS = {
    kind.name: kind
    for kind in (
        Format("slake", "SLAKE (its English rows)", lambda row: {"img_name", "q_lang"} <= row.keys(), _slake),
        Format("vqa_rad", "VQA-RAD", lambda row: {"image_name", "question"} <= row.keys(), _vqa_rad),
        Format(
            "llava_med_qa",
            "LLaVA-Med questions, such as its qa50 file",
            lambda row: {"question_id", "text", "image"} <= row.keys(),
            _llava_med_qa,
        ),
        Format(
            "llava_med",
            "LLaVA-Med instructions",
            lambda row: (
                {"id", "image"} <= row.keys()
                and isinstance(_first(row.get("conversations", row.get(_MISSPELT))), dict)
            ),
            _llava_med,
        ),
        Format(
            "sharegpt",
            "plain ShareGPT",
            lambda row: "messages" in row or ("conversations" in row and ("images" in row or "id" not in row)),
            _sharegpt,
        ),
        Format(
            "med_grit",
            "Med-GRIT-270k / BiRD, training or test part",
            lambda row: "id" in row and isinstance(_first(row.get("conversations")), dict | list),
            _med_grit,
        ),
    )
}


def detect_format(rows: Iterable[Mapping[str, Any]]) -> Format:
    """The format that most of ``rows`` (the first of a file) match.

    Raises:
        ValueError: If none fits; the message lists the formats and the keys found.
    """
    rows = list(rows)
    votes = Counter(next((kind.name for kind in FORMATS.values() if kind.matches(row)), None) for row in rows)
    del votes[None]
    if votes:
        return FORMATS[votes.most_common(1)[0][0]]
    keys = ", ".join(sorted({str(key) for row in rows for key in row})[:20]) or "none"
    known = "; ".join(f"{kind.name}: {kind.description}" for kind in FORMATS.values())
    raise ValueError(f"No known format fits. Keys found: {keys}. Name one with --format: {known}.")
