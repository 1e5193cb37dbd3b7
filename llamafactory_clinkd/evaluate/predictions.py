# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reads predictions of every known format into the shared row vocabulary and sets malformed rows aside.

=======================================  ================================================================
format                                   recognised by its fields
=======================================  ================================================================
ours, BiRD's and ClinKD's                ``annotation`` (or ``annotations``, several ground truths) and
                                         ``response`` (a string, or a list best first)
VQA-RAD, SLAKE, PathVQA, PMC-VQA         ``question``, ``answer`` and ``response``
LLaVA-Med's form of these                ``conversations`` and ``response``
LLaMA-Factory's generated predictions    ``predict`` and ``label`` (``prompt`` contains the question)
LLaVA-Med's question file                ``gpt4_answer`` and ``text``; its answers are a second file of
                                         ``question_id`` and ``text``, or ``response`` in the same row
VLMEvalKit's results                     ``index``, ``question`` and ``prediction``
lmms-eval's samples                      ``doc_id``, ``target`` and ``filtered_resps``
=======================================  ================================================================

A malformed row is listed with its number, reason and outcome:

- *left out* if it cannot be scored: not JSON, not an object, fields of no known format, no ground truth (a label or a
  caption without a word, a grounding without a box), an unknown task, or neither a task nor a question;
- *counted wrong* if only the response is absent, empty, not text, or without any letter or digit, which is scored as
  an empty response, or if a grounding has no readable box.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.boxes import KEPT_COLUMNS, MODALITIES, TASKS, VQA, has_box, modality_of, strip_boxes, task_of
from ..utils.scan_names import standard_modality
from . import released
from .exchange import from_other_tool
from .model_answer import ReadAnswer, encodable, has_words, last_question, read_answer, short
from .prediction_files import Unreadable, load_rows


LEFT_OUT, WRONG = "left out", "counted wrong"
OTHER = "other"  # the modality of an image whose name contains none of the eight
FIELDS = ("id", "image", "question", "annotation", "response", "task", "modality", "candidates")
"""The shared vocabulary of a row; ``KEPT_COLUMNS`` and ``volume`` are there where they are known."""
_FURTHER = (*(name for name in KEPT_COLUMNS if name != "annotations"), "volume")
_VQA_NAMES = {
    "answer": "annotation", "image_name": "image", "img_name": "image", "figure_path": "image", "qid": "id",
    "question_id": "id", "q_lang": "language", "image_organ": "organ", "location": "organ",
    "question_type": "content_type",
}  # fmt: skip
_CHOICE = re.compile(r"choice[ _]([a-h])")
_CHOICE_LETTER = re.compile(r"^\s*[A-H]\s*[:.)]\s*")


class Reading(NamedTuple):
    """The rows that can be scored, the malformed ones, and what the answers of all rows were like."""

    rows: list[dict[str, Any]]  # with the keys FIELDS
    problems: list[dict[str, Any]]  # {"row", "reason", "outcome"} of each malformed row, counted from 1
    answers: dict[str, int]  # how many are not_text, empty, without_box, truncated, with_reasoning
    assumed: dict[str, int]  # rows without a task of their own, by the task they are scored as


def read_predictions(path: str | Path, answers: str | Path | None = None) -> Reading:
    """Reads a file of predictions: :func:`.prediction_files.load_rows`, then :func:`read_rows`."""
    return read_rows(load_rows(path, answers))


def read_rows(rows: Iterable[Any], *, by_release: bool = False) -> Reading:
    """Converts rows of any known format to the shared vocabulary; anything but a mapping is left out.

    With ``by_release``, texts are those that the released code scores (:mod:`.released`): responses are cleaned as
    there, no ground truth is refused for its words, and the image's name decides on the modality.
    """
    converted, problems, kinds, ends, assumed = [], [], Counter(), Counter(), Counter()
    for number, raw in enumerate(rows, start=1):
        row, reason, answer = _read_row(raw, by_release)
        if row is not None:
            converted.append(row)
            kinds.update(answer.kinds)
            ends[answer.end] += 1
            assumed[row["task"]] += not any(str(key).lower() == "task" and value for key, value in raw.items())
        if reason is not None:
            problems.append({"row": number, "reason": reason, "outcome": LEFT_OUT if row is None else WRONG})
    if ends["ended"] > ends["open"]:  # the texts have end tokens: those without were cut off
        kinds["truncated"] += ends["open"]
    names = ("not_text", "empty", "without_box", "truncated", "with_reasoning")
    return Reading(converted, problems, {name: kinds[name] for name in names}, +assumed)


def _read_row(raw: Any, by_release: bool) -> tuple[dict[str, Any] | None, str | None, ReadAnswer]:
    """A row in the shared vocabulary, or None if it is left out; the reason for that or for counting as wrong."""
    nothing = ReadAnswer("")
    if isinstance(raw, Unreadable):
        return None, raw.reason, nothing
    if not isinstance(raw, Mapping):
        return None, f"not an object but {type(raw).__name__}", nothing
    row = _fields(raw)
    if row is None:
        return None, f"fields of no known format: {', '.join(map(str, list(raw)[:8])) or 'none'}", nothing

    texts = row.pop("annotations") or row["annotation"]
    texts = texts if isinstance(texts, list) and texts else [texts]
    if by_release:
        texts = texts[:1]
    wrong = next((text for text in texts if not isinstance(text, str) or not (by_release or has_words(text))), None)
    if wrong is not None or None in texts:
        return None, f"no ground truth: {short(wrong)}", nothing
    image, question, modality = (
        row[key] if isinstance(row[key], str) else "" for key in ("image", "question", "modality")
    )
    task = row["task"].upper() if isinstance(row["task"], str) else row["task"]
    if task is None and not question.strip() and not row.get("answer_type"):
        return None, "no question and no task", nothing
    if row.get("answer_type") and not by_release and task in (None, "MIA"):
        task = VQA
    task = task_of(question, texts[0]) if task is None else task
    if task not in (*TASKS, VQA):
        return None, f"unknown task {short(row['task'])}: expected one of {', '.join((*TASKS, VQA))}", nothing
    if task == "VG" and not by_release and not has_box(" ".join(texts)):
        return None, "a grounding task whose ground truth has no box", nothing
    if task in ("ROC", "RC") and not by_release and not all(has_words(strip_boxes(text)) for text in texts):
        return None, f"no ground truth: {task} with a box and no words", nothing

    answer = read_answer(raw, row["response"], by_release)
    reason = answer.reason
    if task == "VG" and by_release:
        try:
            released.grounding_counts(texts[0], answer.text)
        except ValueError as error:
            return None, f"the released code ends at this ground truth: {error}", nothing
    if task == "VG" and not (released.predicted_boxes(answer.text) if by_release else has_box(answer.text)):
        answer = answer._replace(kinds=answer.kinds | {"without_box"})
        reason = reason or f"no readable box: {short(answer.text)}"

    texts = texts if by_release else [encodable(text) for text in texts]
    row |= {"image": image, "question": encodable(question), "annotation": texts[0], "task": task}
    row |= {"response": answer.text, "modality": _modality(modality, image, by_release)}
    row |= {} if isinstance(row["candidates"], list) else {"candidates": []}
    choices = list(row["choices"].values()) if isinstance(row["choices"], Mapping) else row["choices"]
    choices = choices if isinstance(choices, list) else []
    row["choices"] = [_CHOICE_LETTER.sub("", str(choice)) for choice in choices] or None
    extra = {key: row[key] for key in _FURTHER if row.get(key) is not None}
    extra |= {"annotations": texts} if len(texts) > 1 else {}
    return {key: row[key] for key in FIELDS} | extra, reason, answer


def _fields(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """The unchecked fields of the shared vocabulary from a row of any known format; None for an unknown format."""
    keys, raw = (*FIELDS, *_FURTHER, "annotations"), from_other_tool(raw)
    row = {key: raw.get(key) for key in keys}
    if ("annotation" in raw or "annotations" in raw) and ("response" in raw or "question" in raw):
        return row
    if "predict" in raw and "label" in raw:
        question = last_question(raw.get("prompt"))
        return {**row, "annotation": raw["label"], "response": raw["predict"], "question": question}
    if "gpt4_answer" in raw:  # One corpus, as in the paper's Table 1: its image names contain no modality.
        row.update(id=raw.get("question_id"), annotation=raw["gpt4_answer"], question=raw.get("text"))
        return {**row, "task": row["task"] or "MIA", "modality": row["modality"] or OTHER}
    lower = {str(key).lower(): value for key, value in raw.items()}
    turns = lower.get("conversations", lower.get("conversatons"))  # as the published files spell it
    if isinstance(turns, list) and len(turns) > 1 and all(isinstance(turn, Mapping) for turn in turns):
        lower |= {"question": turns[-2].get("value"), "answer": turns[-1].get("value")}
    if {"question", "answer", "response"} <= set(lower):
        named = {_VQA_NAMES.get(key, key): value for key, value in lower.items()}
        options = {key: value for key, value in sorted(lower.items()) if _CHOICE.fullmatch(key)}
        named["choices"] = named.get("choices") or options
        if isinstance(named["annotation"], int | float):
            named["annotation"] = str(named["annotation"])
        return {key: named.get(key) for key in keys} | {"task": named.get("task") or VQA}
    return None


def _modality(named: str, image: str, by_release: bool) -> str:
    """One of the eight modalities, or ``other``: the row's own, else the image's; by the release the image's first."""
    own, of_image = standard_modality(named), standard_modality(modality_of(image))
    if by_release:
        return (of_image if modality_of(image) in MODALITIES else own) or of_image or OTHER
    return own or (of_image if not named.strip() else None) or OTHER
