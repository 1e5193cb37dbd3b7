# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reads predictions of every known format into the shared row vocabulary and sets malformed rows aside.

=======================================  ================================================================
format                                   recognised by its fields
=======================================  ================================================================
ours, BiRD's and ClinKD's                ``annotation`` and ``response`` (a string, or a list best first)
LLaMA-Factory's generated predictions    ``predict`` and ``label`` (``prompt`` contains the question)
LLaVA-Med's question file                ``gpt4_answer`` and ``text``; its answers are a second file of
                                         ``question_id`` and ``text``, or ``response`` in the same row
=======================================  ================================================================

A file is JSON lines or one JSON array. A malformed row is listed with its number, reason and outcome:

- *left out* if it cannot be scored: not JSON, not an object, fields of no known format, no ground truth (a label or a
  caption without a word, a grounding without a box), an unknown task, or neither a task nor a question;
- *counted wrong* if only the response is absent, empty, not text, or without any letter or digit. It is scored as an
  empty response.

LLaMA-Factory's ``generated_predictions.jsonl`` has no image, task or modality, and by default no special tokens, which
Qwen2-VL's tags are. :func:`join_dataset` adds them from the data set.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.boxes import MODALITIES, TAGS, TASKS, has_box, modality_of, strip_boxes, task_of


LEFT_OUT, WRONG = "left out", "counted wrong"
OTHER = "other"  # the modality of an image whose name contains none of the eight
FIELDS = ("id", "image", "question", "annotation", "response", "task", "modality", "candidates")
"""The shared vocabulary of a row."""
_END = re.compile(r"<\|im_end\|>|<\|endoftext\|>|</s>")
_TURN = re.compile(r"<\|im_start\|>(\w+)\n")
_TAGS_AND_SPACES = re.compile("|".join(re.escape(tag) for tags in TAGS.values() for tag in tags.values()) + r"|\s+")


class Reading(NamedTuple):
    """The rows that can be scored, and the malformed ones."""

    rows: list[dict[str, Any]]  # with the keys FIELDS
    problems: list[dict[str, Any]]  # {"row", "reason", "outcome"} of each malformed row, counted from 1


class Unreadable(NamedTuple):
    """A line that is not JSON."""

    reason: str


def load_rows(path: str | Path, answers: str | Path | None = None) -> list[Any]:
    """The rows of a file, unchanged; a line that is not JSON becomes an :class:`Unreadable`.

    A LLaVA-Med question file needs the file with the model's ``answers``, which is joined on ``question_id``.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the file contains no row, or is a question file without answers.
    """
    rows = _load(path)
    if not rows:
        raise ValueError(f"{path} holds no row: expected JSON lines or a JSON array of predictions.")
    if answers is not None:
        responses = {_question_id(row): row.get("text") for row in _load(answers) if isinstance(row, Mapping)}
        responses.pop(None, None)
        return [row | {"response": responses.get(_question_id(row))} if isinstance(row, dict) else row for row in rows]
    objects = [row for row in rows if isinstance(row, dict)]
    if objects and all("gpt4_answer" in row and "response" not in row for row in objects):
        raise ValueError(f"{path} has questions without responses: add the file of the model's answers.")
    return rows


def read_predictions(path: str | Path, answers: str | Path | None = None) -> Reading:
    """Reads a file of predictions: :func:`load_rows`, then :func:`read_rows`."""
    return read_rows(load_rows(path, answers))


def read_rows(rows: Iterable[Any], *, released: bool = False) -> Reading:
    """Converts rows of any known format to the shared vocabulary; anything but a mapping is left out.

    With ``released``, responses are cleaned as in the released code (:func:`released_response`).
    """
    converted, problems = [], []
    for number, raw in enumerate(rows, start=1):
        row, reason = _read_row(raw, released)
        if row is not None:
            converted.append(row)
        if reason is not None:
            problems.append({"row": number, "reason": reason, "outcome": LEFT_OUT if row is None else WRONG})
    return Reading(converted, problems)


def clean_response(text: str) -> str:
    """The model's answer: the text after the last assistant header, up to the first end token."""
    starts = [turn.end() for turn in _TURN.finditer(text) if turn[1] == "assistant"]
    return _END.split(text[starts[-1] :] if starts else text, maxsplit=1)[0].strip()


def released_response(text: str) -> str:
    """A response as ClinKD's released evaluation reads it (its ``regularization.py``).

    The text up to and including the full stop of the first ``.<|im_end|>``; any other ``<|im_end|>`` at a line end is
    removed; with two or more line breaks left, only the second line; ``<|endoftext|>`` is removed; stripped.
    """
    head, end, _ = text.partition(".<|im_end|>")
    text = (head + "." if end else text).replace("<|im_end|>\n", "")
    lines = text.split("\n")
    return (lines[1] if len(lines) > 2 else text).replace("<|endoftext|>", "").strip()


def join_dataset(predictions: Sequence[Any], dataset: Sequence[Any]) -> list[Any]:
    """Rows of the shared vocabulary: the response from a prediction, the rest from the data set's row at its index.

    The data set may have further rows (``max_samples``). Predictions that are not objects stay unchanged.

    Raises:
        ValueError: If there are more predictions than rows, a row is no conversation, or a label is not the beginning
            of its row's last answer (tags and spaces aside), because the data set is another one.
    """
    if len(predictions) > len(dataset):
        raise ValueError(
            f"There are {len(predictions)} predictions, the data set has {len(dataset)} rows: use the file that was "
            "the recipe's `eval_dataset`."
        )
    return [
        _join(number, prediction, row) if isinstance(prediction, Mapping) else prediction
        for number, (prediction, row) in enumerate(zip(predictions, dataset, strict=False), start=1)
    ]


def _join(number: int, prediction: Mapping[str, Any], row: Any) -> dict[str, Any]:
    if "predict" not in prediction or not isinstance(prediction.get("label"), str):
        raise ValueError(
            f"Row {number} of the predictions has no `predict` and `label`: only LLaMA-Factory's "
            "generated_predictions.jsonl needs a data set; other formats contain image and task."
        )
    messages = row.get("messages") if isinstance(row, Mapping) else None
    turns = [turn for turn in messages if isinstance(turn, Mapping)] if isinstance(messages, list) else []
    if len(turns) < 2 or not all(isinstance(message.get("content"), str) for message in turns[-2:]):
        raise ValueError(f"Row {number} of the data set is no conversation: expected `messages` as in Table A1.")
    question, answer = (message["content"] for message in turns[-2:])
    label = _TAGS_AND_SPACES.sub("", prediction["label"])
    if not label or not _TAGS_AND_SPACES.sub("", answer).startswith(label):
        raise ValueError(
            f"Row {number}: the label {prediction['label'][:60]!r} is not the data set's answer {answer[:60]!r}. Use "
            "the file that was the recipe's `eval_dataset`. A row that LLaMA-Factory dropped (a missing image, one "
            "turn too many) shifts all rows after it."
        )
    images = row.get("images")
    return {
        "id": row.get("id"),
        "image": images[0] if isinstance(images, list) and images else None,
        "question": question.replace("<image>", "").strip(),
        "annotation": answer,
        "response": prediction["predict"],
        "task": row["task"] if len(turns) <= 3 and row.get("task") != "MIXED" and "task" in row else None,
        "modality": row.get("modality"),
    }


def _read_row(raw: Any, released: bool) -> tuple[dict[str, Any] | None, str | None]:
    """A row in the shared vocabulary, or None if it is left out; the reason if it is left out or counts as wrong."""
    if isinstance(raw, Unreadable):
        return None, raw.reason
    if not isinstance(raw, Mapping):
        return None, f"not an object but {type(raw).__name__}"
    row = _fields(raw)
    if row is None:
        return None, f"fields of no known format: {', '.join(map(str, list(raw)[:8])) or 'none'}"

    annotation, task = row["annotation"], row["task"]
    annotation = annotation[0] if isinstance(annotation, list) and annotation else annotation
    if not isinstance(annotation, str) or not _has_words(annotation):
        return None, f"no ground truth: {_short(annotation)}"
    image, question, modality = (
        row[key] if isinstance(row[key], str) else "" for key in ("image", "question", "modality")
    )
    if task is None and not question.strip():
        return None, "no question and no task"
    task = task_of(question, annotation) if task is None else task.upper() if isinstance(task, str) else task
    if task not in TASKS:
        return None, f"unknown task {_short(task)}: expected one of {', '.join(TASKS)}"
    if task == "VG" and not has_box(annotation):
        return None, "a grounding task whose ground truth has no box"
    if task in ("ROC", "RC") and not _has_words(strip_boxes(annotation)):
        return None, f"no ground truth: {task} with a box and no words"

    best, response, reason = row["response"], "", None
    if isinstance(best, list):
        best = best[0] if best else None
    if not isinstance(best, str):
        reason = f"the response is not text: {_short(best)}"
    elif not _has_words(response := (released_response if released else clean_response)(_encodable(best))):
        response, reason = "", f"the response has no letter or digit: {_short(best)}"

    modality = modality.lower() or modality_of(image)
    row |= {"image": image, "question": _encodable(question), "annotation": _encodable(annotation), "task": task}
    row |= {"response": response, "modality": modality if modality in MODALITIES else OTHER}
    return row | ({} if isinstance(row["candidates"], list) else {"candidates": []}), reason


def _fields(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """The unchecked fields of the shared vocabulary from a row of any known format; None for an unknown format."""
    row = {key: raw.get(key) for key in FIELDS}
    if "annotation" in raw and ("response" in raw or "question" in raw):
        return row
    if "predict" in raw and "label" in raw:
        question = _question_of(raw.get("prompt"))
        return {**row, "annotation": raw["label"], "response": raw["predict"], "question": question}
    if "gpt4_answer" in raw:  # One corpus, as in the paper's Table 1: its image names contain no modality.
        row.update(id=raw.get("question_id"), annotation=raw["gpt4_answer"], question=raw.get("text"))
        return {**row, "task": row["task"] or "MIA", "modality": row["modality"] or OTHER}
    return None


def _question_of(prompt: Any) -> Any:
    """The last user turn of a decoded ChatML prompt; any other prompt unchanged."""
    if not isinstance(prompt, str):
        return prompt
    turns = _TURN.split(prompt)[1:]
    users = [text for role, text in zip(turns[::2], turns[1::2], strict=True) if role == "user"]
    return _END.split(users[-1], maxsplit=1)[0].strip() if users else prompt


def _question_id(row: Mapping[str, Any]) -> str | int | None:
    number = row.get("question_id")
    return number if isinstance(number, str | int) else None


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _encodable(text: str) -> str:
    """The text without lone surrogates and NUL, which no encoder or Java program accepts."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


def _short(value: Any) -> str:
    """The value as it appears in a message."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _load(path: str | Path) -> list[Any]:
    """The rows of a JSON-lines or JSON-array file."""
    content = Path(path).read_bytes()
    if content.lstrip().startswith(b"[") and isinstance(array := _loads(content), list):
        return array
    return [_loads(line) for line in content.split(b"\n") if line.strip()]


def _loads(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"not JSON ({error})")
