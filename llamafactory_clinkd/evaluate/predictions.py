# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0


"""Reading predictions of every known format into one kind of row, and setting aside what cannot be read.

=======================================  ================================================================
format                                   told by its fields
=======================================  ================================================================
ours, BiRD's and ClinKD's                ``annotation`` and ``response`` (a string, or a list best first)
LLaMA-Factory's generated predictions    ``predict`` and ``label`` (``prompt`` holds the question)
LLaVA-Med's question file                ``gpt4_answer`` and ``text``; its answers come as a second file of
                                         ``question_id`` and ``text``, or as ``response`` in the same row
=======================================  ================================================================

A file is JSON lines or one JSON array. The rules for malformed rows:

- *left out*, because nothing can be scored: not JSON, not an object, fields of no known format, no ground truth (a
  label or a caption without a word, a grounding without a box), an unknown task, or no question to tell the task from;
- *counted wrong*, because the model had its chance: a response that is absent, empty, not text, or without any letter
  or digit. It is scored as an empty response.

Every such row is listed with its number, its reason and which of the two it was. The rest is evaluated.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.boxes import MODALITIES, TASKS, has_box, modality_of, strip_boxes, task_of


LEFT_OUT, WRONG = "left out", "counted wrong"
OTHER = "other"  # the modality of an image whose name tells none of the eight
_END = re.compile(r"<\|im_end\|>|<\|endoftext\|>|</s>")
_TURN = re.compile(r"<\|im_start\|>(\w+)\n")


class Reading(NamedTuple):
    """What could be read, and what could not.

    Attributes:
        rows: The shared vocabulary: ``id, image, question, annotation, response, task, modality, candidates``.
        problems: ``{"row", "reason", "outcome"}`` of each malformed row, counted from 1 as they stand in the input.
    """

    rows: list[dict[str, Any]]
    problems: list[dict[str, Any]]


def load_rows(path: str | Path, answers: str | Path | None = None) -> list[Any]:
    """The rows of a file as they stand; a line that is not JSON comes as :class:`Unreadable`.

    Args:
        path: JSON lines or a JSON array, in any format of the table above.
        answers: For a LLaVA-Med question file: the file with the model's answers, joined on ``question_id``.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the file holds no row, or is a question file without answers.
    """
    rows = _load(path)
    if not rows:
        raise ValueError(f"{path} holds no row: expected JSON lines or a JSON array of predictions.")
    if answers is not None:
        return _join(rows, _load(answers))
    objects = [row for row in rows if isinstance(row, Mapping)]
    if objects and all("gpt4_answer" in row and "response" not in row for row in objects):
        raise ValueError(f"{path} holds questions without responses: give the file of the model's answers too.")
    return rows


def read_predictions(path: str | Path, answers: str | Path | None = None) -> Reading:
    """Reads a file of predictions: :func:`load_rows`, then :func:`read_rows`."""
    return read_rows(load_rows(path, answers))


def read_rows(rows: Iterable[Any], *, released: bool = False) -> Reading:
    """Brings rows of any known format to the shared vocabulary.

    Args:
        rows: Dictionaries; anything else, :class:`Unreadable` included, is set aside.
        released: Clean responses as the released code does (see :func:`released_response`).
    """
    good, problems = [], []
    for number, raw in enumerate(rows, start=1):
        row, reason, outcome = _read_row(raw, released)
        if row is not None:
            good.append(row)
        if reason is not None:
            problems.append({"row": number, "reason": reason, "outcome": outcome})
    return Reading(good, problems)


class Unreadable(NamedTuple):
    """Stands for a line that is not JSON."""

    reason: str


def clean_response(text: str) -> str:
    """The model's own words: what follows the last turn's header, up to the first end token."""
    starts = [turn.end() for turn in _TURN.finditer(text) if turn[1] == "assistant"]
    return _END.split(text[starts[-1] :] if starts else text, maxsplit=1)[0].strip()


def released_response(text: str) -> str:
    """A response as ClinKD's released evaluation reads it (its ``regularization.py``).

    The text up to the first ``.<|im_end|>`` with its full stop; other ``<|im_end|>`` at line ends taken out; when two
    line breaks remain, only what stands between the first two of them; ``<|endoftext|>`` taken out; stripped.
    """
    head, found, _ = text.partition(".<|im_end|>")
    text = (head + "." if found else text).replace("<|im_end|>\n", "")
    lines = text.split("\n")
    return (lines[1] if len(lines) > 2 else text).replace("<|endoftext|>", "").strip()


def _read_row(raw: Any, released: bool) -> tuple[dict[str, Any] | None, str | None, str | None]:
    """One row as (row or None, reason or None, outcome or None)."""
    if isinstance(raw, Unreadable):
        return None, raw.reason, LEFT_OUT
    if not isinstance(raw, Mapping):
        return None, f"not an object but {type(raw).__name__}", LEFT_OUT
    row = _fields(raw)
    if row is None:
        return None, f"fields of no known format: {', '.join(map(str, list(raw)[:8])) or 'none'}", LEFT_OUT

    annotation = (
        row["annotation"][0] if isinstance(row["annotation"], list) and row["annotation"] else row["annotation"]
    )
    if not isinstance(annotation, str) or not _has_words(annotation):
        return None, f"no ground truth: {_short(annotation)}", LEFT_OUT
    question = row["question"] if isinstance(row["question"], str) else ""
    task = row["task"]
    if task is None:
        if not question.strip():
            return None, "no question and no task", LEFT_OUT
        task = task_of(question, annotation)
    task = task.upper() if isinstance(task, str) else task
    if task not in TASKS:
        return None, f"unknown task {_short(task)}: expected one of {', '.join(TASKS)}", LEFT_OUT
    if task == "VG" and not has_box(annotation):
        return None, "a grounding task whose ground truth has no box", LEFT_OUT
    if task in ("ROC", "RC") and not _has_words(strip_boxes(annotation)):
        return None, f"no ground truth: {task} with a box and no words", LEFT_OUT

    candidates = row["response"] if isinstance(row["response"], list) else [row["response"]]
    best = candidates[0] if candidates else None
    response, reason = "", None
    if isinstance(best, str):
        response = (released_response if released else clean_response)(_encodable(best))
    if not isinstance(best, str):
        reason = f"the response is not text: {_short(best)}"
    elif not _has_words(response):
        response, reason = "", f"the response has no letter or digit: {_short(best)}"

    image = row["image"] if isinstance(row["image"], str) else ""
    read = {
        "id": row["id"],
        "image": image,
        "question": _encodable(question),
        "annotation": _encodable(annotation),
        "response": response,
        "task": task,
        "modality": _modality(row["modality"], image),
        "candidates": row["candidates"] if isinstance(row["candidates"], list) else [],
    }
    return read, reason, None if reason is None else WRONG


def _fields(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields of the shared vocabulary, unchecked, from a row of any known format; None for no known format."""
    row = {key: raw.get(key) for key in ("id", "image", "question", "response", "task", "modality", "candidates")}
    if "annotation" in raw and ("response" in raw or "question" in raw):
        return {**row, "annotation": raw["annotation"]}
    if "predict" in raw and "label" in raw:
        return {
            **row,
            "annotation": raw["label"],
            "response": raw["predict"],
            "question": _question_of(raw.get("prompt")),
        }
    if "gpt4_answer" in raw:  # One corpus, as in the paper's Table 1: image names tell no modality.
        row.update(id=raw.get("question_id"), annotation=raw["gpt4_answer"], question=raw.get("text"))
        return {**row, "task": row["task"] or "MIA", "modality": row["modality"] or OTHER}
    return None


def _question_of(prompt: Any) -> Any:
    """The user's words in a decoded prompt with ChatML turns; any other prompt as it is."""
    if not isinstance(prompt, str):
        return prompt
    turns = _TURN.split(prompt)[1:]
    users = [text for role, text in zip(turns[::2], turns[1::2], strict=True) if role == "user"]
    return _END.split(users[-1], maxsplit=1)[0].strip() if users else prompt


def _modality(given: Any, image: str) -> str:
    """The row's own modality, else the one that the image's name tells; ``other`` when it is none of the eight."""
    name = given.lower() if isinstance(given, str) and given else modality_of(image)
    return name if name in MODALITIES else OTHER


def _join(rows: list[Any], answers: list[Any]) -> list[Any]:
    """Question rows with the ``text`` of the answer of the same ``question_id`` as their response."""
    given = {_question_id(row): row.get("text") for row in answers if isinstance(row, Mapping)}
    given.pop(None, None)
    return [{**row, "response": given.get(_question_id(row))} if isinstance(row, Mapping) else row for row in rows]


def _question_id(row: Mapping[str, Any]) -> str | int | None:
    number = row.get("question_id")
    return number if isinstance(number, str | int) else None


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _encodable(text: str) -> str:
    """The text without lone surrogates and NUL, which no encoder or Java program takes."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


def _short(value: Any) -> str:
    """What was found, for a message."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _load(path: str | Path) -> list[Any]:
    """The rows of a JSON-lines or JSON-array file."""
    content = Path(path).read_bytes()
    if content.lstrip()[:1] == b"[":
        whole = _loads(content)
        if isinstance(whole, list):
            return whole
    return [_loads(line) for line in content.split(b"\n") if line.strip()]


def _loads(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"not JSON ({error})")
