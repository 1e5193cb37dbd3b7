# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What `clinkd data check` finds in one row of a ShareGPT file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..utils.boxes import parse_boxes
from .formats import FORMATS, IMAGE, Conversation
from .image_check import Finding
from .image_names import relative_path
from .rejects import Reject
from .text import clean_text


@dataclass(frozen=True)
class RowFacts:
    """One row's faults, its images that stay within the folder, and two hashes to find duplicates by."""

    number: int
    id: str
    images: list[str]
    findings: list[Finding]
    id_hash: int
    content_hash: int


def examine_row(number: int, row: Mapping[str, Any] | Reject) -> RowFacts:
    """Checks everything about a row but its pictures and its neighbours."""
    if isinstance(row, Reject):
        return RowFacts(number, "", [], [Finding(row.reason, number, "", row.detail)], 0, 0)
    identity = _printable(str(row["id"])) if isinstance(row.get("id"), str | int) else ""
    faults: list[tuple[str, str]] = []

    images, listed = [], listed_images(row)
    for image in listed:
        try:
            relative_path(image)
        except Reject as reject:
            faults.append((reject.reason, reject.detail))
        else:
            images.append(image)
    if not listed:
        faults.append(("no_image", "text only"))

    try:
        _check_messages(row)
        conversation = FORMATS["sharegpt"].parse({**row, "images": []})
    except Reject as reject:
        faults.append((reject.reason, reject.detail))
    else:
        faults += _faults_of(conversation, len(listed))

    findings = [Finding(code, number, identity, detail) for code, detail in faults]
    content = json.dumps([row.get("messages"), listed], sort_keys=True)
    return RowFacts(number, identity, images, findings, _hash(identity) if identity else 0, _hash(content))


def listed_images(row: Mapping[str, Any]) -> list[Any]:
    """What a row lists as its images, be it one or many, of whatever type."""
    listed = row.get("images")
    return listed if isinstance(listed, list) else [] if listed is None else [listed]


def _check_messages(row: Mapping[str, Any]) -> None:
    """Holds the messages to the letter of Table A1: stock LLaMA-Factory drops a row with any other role."""
    if not isinstance(row.get("messages"), list):
        raise Reject("missing_field", "no list of 'messages'")
    for index, message in enumerate(row["messages"], start=1):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise Reject("wrong_type", f"message {index} should hold 'role' and 'content', both text")
        if message["role"] not in ("user", "assistant", "system"):
            raise Reject("unknown_role", f"message {index} is from {message['role'][:40]!r}")


def _faults_of(conversation: Conversation, images: int) -> list[tuple[str, str]]:
    if not conversation.turns:
        return [("no_turns", "expected a question and an answer")]
    faults = []
    texts = [("system", conversation.system)] if conversation.system else []
    for question, answer in conversation.turns:
        texts += [("question", question), ("answer", answer)]
        if not question.replace(IMAGE, "").strip():
            faults.append(("empty_question", f"its answer is {answer[:60]!r}"))
        if not answer.strip():
            faults.append(("empty_answer", f"to {question[:60]!r}"))
    for kind, text in texts:
        if kind == "answer" and IMAGE in text:
            faults.append(("image_in_answer", f"in {text[:60]!r}"))
        try:
            cleaned = clean_text(text)
        except Reject as reject:
            faults.append((reject.reason, f"{kind}: {reject.detail}"))
        else:
            if parse_boxes(cleaned) != parse_boxes(text):
                faults.append(("box_form", f"{kind}: {text[:80]!r}"))
    found = sum(text.count(IMAGE) for _, text in texts)
    if found != images:
        faults.append(("image_count", f"{found} <image> placeholders, {images} images"))
    return faults


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
