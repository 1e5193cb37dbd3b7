# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The formats that `clinkd data convert` reads: a table of how each is recognized and parsed.

A new format is a parser, which turns a row into a :class:`.conversation.Conversation` or raises :class:`Reject`, and
its entry in ``FORMATS``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..utils.boxes import VQA
from . import box_formats, chat_formats
from .chat_formats import first as first_item
from .conversation import Conversation, conversation, field_of, messages_of, pairs_of
from .coordinates import Unit
from .problems import Reject
from .scans import is_scan


Parser = Callable[[Mapping[str, Any]], Conversation]
_CHOICES = "ABCD"  # of PMC-VQA


@dataclass(frozen=True)
class Format:
    """One format: ``matches`` recognizes its rows, ``parse`` reads one or raises :class:`Reject`.

    ``usual`` is the unit that its boxes usually have, where a row does not fix it; ``task`` is that of turns without
    a box.
    """

    name: str
    description: str
    matches: Callable[[Mapping[str, Any]], bool]
    parse: Parser
    usual: Unit | None = None
    task: str = "MIA"


def _med_grit(row: Mapping[str, Any]) -> Conversation:
    identity = field_of(row, "id")
    if not identity.strip():
        raise Reject("missing_field", "the id, which names the image, is empty")
    has_extension = is_scan(identity) or identity.lower().endswith((".png", ".jpg", ".jpeg"))
    image = identity if has_extension else identity + ".png"
    value, system = row.get("conversations"), None
    if isinstance(first_item(value), dict):
        system, turns, _ = messages_of(value)
    else:
        turns = pairs_of(value)
    return conversation(identity, image, turns, system=system, task=row.get("task"))


def _question_answer(identity: str, image: str, question: str, *answers: str, modality: str = "") -> Parser:
    """The parser of rows of one turn, given their keys; the answer is under the first of ``answers`` that exists."""

    def parse(row: Mapping[str, Any]) -> Conversation:
        answer = next((key for key in answers if key in row), answers[-1])
        value = row.get(answer)
        if isinstance(value, list) and value:  # several references: the first is trained on, all are kept
            value = value[0].get("answer") if isinstance(value[0], dict) else value[0]
            row = {**row, answer: value}
        turns = [[field_of(row, question), field_of(row, answer)]]
        name = field_of(row, identity) if identity else next((field_of(row, key) for key in _IDS if row.get(key)), "")
        if image not in row:
            raise Reject("missing_field", f"no {image!r} among {', '.join(map(str, list(row)[:12]))}")
        return conversation(name, row[image] or [row[image]], turns, modality=row.get(modality))

    return parse


_IDS = ("id", "qid", "question_id")
_vqa_rad = _question_answer("qid", "image_name", "question", "answer")
_qa50 = _question_answer("question_id", "image", "text", "gpt4_answer", "answer", modality="domain")
_vqa = _question_answer("", "image", "question", "answer", "answers", modality="modality")
_slake_in_any_language = _question_answer("qid", "img_name", "question", "answer", modality="modality")


def _slake(row: Mapping[str, Any]) -> Conversation:
    if field_of(row, "q_lang").strip().lower() != "en":
        raise Reject("not_english", f"q_lang is {row['q_lang']!r}")
    return _slake_in_any_language(row)


def _pmc_vqa(row: Mapping[str, Any]) -> Conversation:
    """The choices follow the question; the answer is the letter with its text."""
    choices = {letter: field_of(row, f"Choice {letter}").strip() for letter in _CHOICES}
    choices = {letter: text.removeprefix(f"{letter}:").strip() for letter, text in choices.items()}
    letter = field_of(row, "Answer_label", "Answer").strip().upper()
    if letter not in choices:
        raise Reject("wrong_type", f"the answer is {letter[:40]!r}, expected one of {', '.join(choices)}")
    question = "\n".join([field_of(row, "Question").strip(), *(f"{key}: {text}" for key, text in choices.items())])
    identity = field_of(row, "index") if row.get("index") else ""
    turns, columns = [[question, f"{letter}: {choices[letter]}"]], {"choices": list(choices.values())}
    return conversation(identity, field_of(row, "Figure_path"), turns, columns=columns)


def _llava_med(row: Mapping[str, Any]) -> Conversation:
    system, turns, images = messages_of(_llava_med_messages(row))
    modality = row.get("domain", row.get("modality"))
    return conversation(field_of(row, "id"), row.get("image") or images, turns, system=system, modality=modality)


def _llava_med_messages(row: Mapping[str, Any]) -> Any:
    return row.get("conversations", row.get("conversatons"))  # the published instruction files misspell the key


def _has(*keys: str, any_of: tuple[str, ...] = (), first: str = "", kind: Any = dict) -> Callable[[Mapping], bool]:
    """Matches rows with all ``keys``, one of ``any_of``, and under ``first`` a list whose first item is a ``kind``."""

    def matches(row: Mapping[str, Any]) -> bool:
        has_first = not first or isinstance(first_item(row.get(first)), kind)
        return set(keys) <= row.keys() and has_first and (not any_of or any(key in row for key in any_of))

    return matches


def _is_alpaca(row: Mapping[str, Any]) -> bool:
    return {"instruction", "output"} <= row.keys() or {"query", "response"} <= row.keys()


def _is_llava_med(row: Mapping[str, Any]) -> bool:
    return {"id", "image"} <= row.keys() and isinstance(first_item(_llava_med_messages(row)), dict)


_is_refcoco = _has("bbox", any_of=("sentences", "raw_anns", "segmentation"))
_is_vqa = _has("image", "question", any_of=("answer", "answers"))
_is_swift = _has("objects", any_of=("messages", "query"))
_is_med_grit = _has("id", first="conversations", kind=dict | list)
_FORMATS = (  # in the order of detection: a row has the first format that matches it
    Format("coco", "COCO, boxes or captions", _has("coco_image"), box_formats.coco),
    Format("vindr_cxr", "VinDr-CXR's CSV of boxes", _has("lines"), box_formats.vindr),
    Format("kvasir_seg", "Kvasir-SEG's JSON of boxes", _has("height", "width", first="bbox"), box_formats.kvasir),
    Format("refcoco", "RefCOCO, a region a row", _is_refcoco, box_formats.refcoco),
    Format("slake", "SLAKE (its English rows)", _has("img_name", "q_lang"), _slake, task=VQA),
    Format("vqa_rad", "VQA-RAD", _has("image_name", "question"), _vqa_rad, task=VQA),
    Format("pmc_vqa", "PMC-VQA's CSV", _has("Figure_path", "Question", "Choice A"), _pmc_vqa, task=VQA),
    Format("vqa", "image, question and answer, such as VQA-RAD and PathVQA in Parquet", _is_vqa, _vqa, task=VQA),
    Format("llava_med_qa", "LLaVA-Med questions, such as its qa50 file", _has("question_id", "text", "image"), _qa50),
    Format("ms_swift", "ms-swift, boxes in objects", _is_swift, chat_formats.swift, usual="pixels"),
    Format("llava_med", "LLaVA-Med instructions; Qwen's fine-tuning files", _is_llava_med, _llava_med),
    Format("openai", "OpenAI's and LLaMA-Factory v1's lists", chat_formats.is_content_list, chat_formats.sharegpt),
    Format("qwen_vl", "Qwen-VL's fine-tuning files", chat_formats.is_qwen_vl, chat_formats.sharegpt),
    Format("sharegpt", "plain ShareGPT", chat_formats.is_sharegpt, chat_formats.sharegpt),
    Format("med_grit", "Med-GRIT-270k / BiRD, training or test part", _is_med_grit, _med_grit),
    Format("alpaca", "Alpaca; ms-swift's query and response", _is_alpaca, chat_formats.alpaca),
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
