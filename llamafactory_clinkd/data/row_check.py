# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What `clinkd data check` examines in one row of a ShareGPT file: layout, text, boxes and the number of tokens."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..utils.boxes import IMAGE_PLACEHOLDER, parse_boxes
from .coordinates import Scale, Unit, resized
from .formats import FORMATS, Conversation
from .images import relative_path
from .problems import Problem, Reject
from .sharegpt import as_list
from .text import THOUSANDTHS, clean_text, unread_box


_AS_WRITTEN = (10**9, 10**9)
SCALES = {"thousandths": THOUSANDTHS, "resized": Scale("resized", _AS_WRITTEN, _AS_WRITTEN)}  # of a converted file


@dataclass
class RowCheck:
    """The problems of one row, its images within the data folder, and hashes that identify duplicates (0: none)."""

    number: int
    id: str = ""
    images: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    id_hash: int = 0
    content_hash: int = 0
    tokens: int = 0


def check_row(number: int, row: Mapping[str, Any] | Reject, unit: Unit = "thousandths") -> RowCheck:
    """Checks a row without opening its images, counting its tokens or comparing it to other rows.

    ``unit`` is that of the file's boxes (see :data:`SCALES`).
    """
    if isinstance(row, Reject):
        return RowCheck(number, problems=[(row.reason, row.detail)])
    result, images = RowCheck(number), as_list(row.get("images"))
    if isinstance(row.get("id"), str | int):
        result.id = str(row["id"]).encode("utf-8", "replace").decode("utf-8")
        result.id_hash = _hash(result.id) if result.id else 0
    result.content_hash = _hash(json.dumps([row.get("messages"), images], sort_keys=True))

    for image in images:
        try:
            relative_path(image)
            result.images.append(image)
        except Reject as reject:
            result.problems.append((reject.reason, reject.detail))
    if not images:
        result.problems.append(("no_image", "text only"))
    try:
        _check_messages(row)
        conversation = FORMATS["sharegpt"].parse({**row, "images": []})
        result.problems += _conversation_problems(conversation, len(images), SCALES[unit])
    except Reject as reject:
        result.problems.append((reject.reason, reject.detail))
    return result


def _check_messages(row: Mapping[str, Any]) -> None:
    """Requires the exact roles and keys of Table A1: LLaMA-Factory drops a row with any other role."""
    if not isinstance(row.get("messages"), list):
        raise Reject("missing_field", "no list of 'messages'")
    for index, message in enumerate(row["messages"], start=1):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise Reject("wrong_type", f"message {index} should hold 'role' and 'content', both text")
        if message["role"] not in ("user", "assistant", "system"):
            raise Reject("unknown_role", f"message {index} is from {message['role'][:40]!r}")


def text_problems(turns: Sequence[Sequence[str]], system: str | None) -> list[Problem]:
    """Empty texts, and images where none may be; an answer ``nan`` is an empty cell that pandas wrote as text."""
    problems = [("image_in_system", f"in {system[:60]!r}")] if IMAGE_PLACEHOLDER in (system or "") else []
    for question, answer in turns:
        if not question.replace(IMAGE_PLACEHOLDER, "").strip():
            problems.append(("empty_question", f"its answer is {answer[:60]!r}"))
        if answer.replace(IMAGE_PLACEHOLDER, "").strip().lower() in ("", "nan"):
            problems.append(("empty_answer", f"to {question[:60]!r}"))
        elif IMAGE_PLACEHOLDER in answer:
            problems.append(("image_in_answer", f"in {answer[:60]!r}"))
    return problems


def _conversation_problems(conversation: Conversation, images: int, scale: Scale) -> list[Problem]:
    """The problems of the texts; ``images`` is the number of images of the row."""
    if not conversation.turns:
        return [("no_turns", "expected a question and an answer")]
    problems = text_problems(conversation.turns, conversation.system)
    texts = [("system", conversation.system)] if conversation.system else []
    texts += [pair for turn in conversation.turns for pair in zip(("question", "answer"), turn, strict=True)]
    for kind, text in texts:
        try:
            if parse_boxes(clean_text(text, scale)) != parse_boxes(text):
                problems.append(("box_form", f"{kind}: {text[:80]!r}"))
            if kind == "answer" and (unread := unread_box(text)):
                problems.append(("box_unread", f"{unread[:80]!r}"))
        except Reject as reject:
            problems.append((reject.reason, f"{kind}: {reject.detail}"))
    placeholders = sum(text.count(IMAGE_PLACEHOLDER) for _, text in texts)
    if placeholders != images:
        problems.append(("image_count", f"{placeholders} <image> placeholders, {images} images"))
    return problems


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def count_tokens(
    model: str, messages: Sequence[Mapping[str, Any]], sizes: Sequence[tuple[int, int]], max_pixels: int
) -> int:
    """Tokens of a row in the chat template of a Qwen2-VL (folder or hub name), with images of these sizes.

    ``sizes`` are (width, height), ``max_pixels`` is the recipe's ``image_max_pixels``.
    """
    processor = _processor(model)
    plain = [{"role": m["role"], "content": m["content"].replace(IMAGE_PLACEHOLDER, "")} for m in messages]
    text = processor.tokenizer.apply_chat_template(plain, tokenize=False)
    tokens = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    for size in sizes:
        width, height = resized(*size, max_pixels)
        patches = processor.image_processor.get_number_of_image_patches(height, width, {})
        tokens += patches // processor.image_processor.merge_size**2 + 2  # vision start and end
    return tokens


@cache  # one in each worker process
def _processor(model: str) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(model)
