# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Files of predictions: JSON lines or an array, answers joined to their questions, predictions to their data set.

LLaMA-Factory's ``generated_predictions.jsonl`` has no image, task or modality, and by default no special tokens, which
Qwen2-VL's tags are. :func:`join_dataset` adds them from the data set.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.boxes import KEPT_COLUMNS, TAGS
from .exchange import TABLES, check_documents, read_table


_TAGS_AND_SPACES = re.compile("|".join(re.escape(tag) for tags in TAGS.values() for tag in tags.values()) + r"|\s+")


class Unreadable(NamedTuple):
    """A line that is not JSON."""

    reason: str


def load_rows(path: str | Path, answers: str | Path | None = None) -> list[Any]:
    """The rows of a file, unchanged; a line that is not JSON becomes an :class:`Unreadable`.

    A question file (LLaVA-Med's, VQA-RAD's, SLAKE's) needs the file with the model's ``answers``: rows of
    ``question_id`` (or ``qid``, ``id``; text or number) and ``text`` (or ``response``, ``answer``).

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the file contains no row, is a question file without answers, or an answer is missing or double.
    """
    rows = _load(path)
    if not rows:
        raise ValueError(f"{path} holds no row: expected JSON lines or a JSON array of predictions.")
    if answers is not None:
        return _join_answers(rows, _load(answers), str(answers))
    check_documents(rows, path)
    objects = [row for row in rows if isinstance(row, dict)]
    if objects and all("gpt4_answer" in row and "response" not in row for row in objects):
        raise ValueError(f"{path} has questions without responses: add the file of the model's answers.")
    return rows


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


def turns_of(number: int, row: Any) -> list[dict[str, Any]]:
    """The turns of a ShareGPT row in the shared vocabulary, without a response; one of several turns has no task.

    Raises:
        ValueError: If the row is no conversation; the message has its ``number``.
    """
    messages = row.get("messages") if isinstance(row, Mapping) else None
    turns = [turn for turn in messages if isinstance(turn, Mapping)] if isinstance(messages, list) else []
    if turns and turns[0].get("role") == "system":
        turns = turns[1:]
    if len(turns) < 2 or not all(isinstance(message.get("content"), str) for message in turns):
        raise ValueError(f"Row {number} of the data set is no conversation: expected `messages` as in Table A1.")
    images = row.get("images")
    shared = {
        "id": row.get("id"),
        "image": images[0] if isinstance(images, list) and images else None,
        "task": row["task"] if len(turns) == 2 and row.get("task") != "MIXED" and "task" in row else None,
        "modality": row.get("modality"),
        **{key: row[key] for key in KEPT_COLUMNS if row.get(key) is not None},
    }
    pairs = zip(turns[-2::-2], turns[::-2], strict=False)  # from the last turn backwards
    return [
        {**shared, "question": question["content"].replace("<image>", "").strip(), "annotation": answer["content"]}
        for question, answer in pairs
    ][::-1]


def with_kept_columns(rows: Sequence[Mapping[str, Any]], dataset: Sequence[Any]) -> list[dict[str, Any]]:
    """The predictions of a run, with the columns (``KEPT_COLUMNS``) of the data set's row of the same id and texts."""
    kept = {}
    for number, row in enumerate(dataset, start=1):
        turn = turns_of(number, row)[-1]
        name = turn["id"] or Path(str(turn["image"] or "")).stem
        kept[str(name), turn["question"], turn["annotation"]] = {key: turn[key] for key in KEPT_COLUMNS if key in turn}
    found = [kept.get((str(row.get("id")), row.get("question"), row.get("annotation")), {}) for row in rows]
    return [{**row, **columns, **row} for row, columns in zip(rows, found, strict=True)]


def _join(number: int, prediction: Mapping[str, Any], row: Any) -> dict[str, Any]:
    if "predict" not in prediction or not isinstance(prediction.get("label"), str):
        raise ValueError(
            f"Row {number} of the predictions has no `predict` and `label`: only LLaMA-Factory's "
            "generated_predictions.jsonl needs a data set; other formats contain image and task."
        )
    joined = turns_of(number, row)[-1]
    label, answer = _TAGS_AND_SPACES.sub("", prediction["label"]), joined["annotation"]
    if not label or not _TAGS_AND_SPACES.sub("", answer).startswith(label):
        raise ValueError(
            f"Row {number}: the label {prediction['label'][:60]!r} is not the data set's answer {answer[:60]!r}. Use "
            "the file that was the recipe's `eval_dataset`. A row that LLaMA-Factory dropped (a missing image, one "
            "turn too many) shifts all rows after it."
        )
    return joined | {"response": prediction["predict"]}


def _join_answers(rows: list[Any], answers: list[Any], name: str) -> list[Any]:
    """The rows, each with the ``response`` of the answer with its id."""
    found = [(key, row) for row in answers if isinstance(row, Mapping) and (key := _question_id(row)) is not None]
    asked = [_question_id(row) for row in rows if isinstance(row, dict)]
    if None in asked:
        raise ValueError(f"{asked.count(None)} questions have no `question_id` (or `qid`, `id`) to join answers on.")
    for what, ids in (("questions", asked), ("answers", [key for key, _ in found])):
        for key, count in Counter(ids).most_common(1):
            if count > 1:
                raise ValueError(f"{count} {what} have the question_id {key!r}: each may occur once.")
    responses = {
        key: next((row[field] for field in ("text", "response", "answer") if field in row), None) for key, row in found
    }
    missing = [key for key in asked if key not in responses]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(asked)} questions have no answer in {name}: question_id "
            f"{', '.join(map(repr, missing[:3]))}. The answers have {', '.join(map(repr, list(responses)[:3]))}. An "
            "answer that the model did not give needs a row with an empty text."
        )
    return [row | {"response": responses[_question_id(row)]} if isinstance(row, dict) else row for row in rows]


def _question_id(row: Mapping[str, Any]) -> str | None:
    """The row's id as text: ``0``, ``"0"`` and ``0.0`` are one id."""
    number = next((row[key] for key in ("question_id", "qid", "id") if row.get(key) is not None), None)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    return str(number).strip() if isinstance(number, str | int) and not isinstance(number, bool) else None


def _load(path: str | Path) -> list[Any]:
    """The rows of a JSON-lines or JSON-array file, in UTF-8 or UTF-16, or of a table."""
    if Path(path).suffix.lower() in TABLES:
        return read_table(Path(path))
    content = Path(path).read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", "replace").encode()
    content = content.removeprefix(codecs.BOM_UTF8)
    if content.lstrip().startswith(b"[") and isinstance(array := _loads(content), list):
        return array
    return [_loads(line) for line in content.split(b"\n") if line.strip()]


def _loads(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"not JSON ({error})")
