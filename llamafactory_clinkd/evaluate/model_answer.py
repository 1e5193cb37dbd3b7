# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The text of a model's answer: end tokens, reasoning, and what shows that it was cut off."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..utils.boxes import TAGS
from ..utils.control_text import outside_reasoning
from . import released


_END = re.compile(r"<\|im_end\|>|<\|endoftext\|>|</s>|<\|eot_id\|>")
_TURN = re.compile(r"<\|im_start\|>(\w+)\n")
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
_OPENING = {tags[kind]: tags["/" + kind] for tags in TAGS.values() for kind in ("ref", "box")}
_PART_OF_BOX = re.compile(r"\(\s*[\d.]*\s*(?:,\s*[\d.]*\s*)*(?:\)\s*,\s*(?:\(\s*[\d.]*\s*(?:,\s*[\d.]*\s*)?)?)?$")
_LENGTH = ("length", "max_tokens", "max_output_tokens", "max_length", "model_length")


class ReadAnswer(NamedTuple):
    """An answer's text, the reason why it counts as wrong, and its kinds."""

    text: str
    reason: str | None = None
    kinds: frozenset[str] | set[str] = frozenset()  # of not_text, empty, truncated, with_reasoning
    end: str = ""  # ``ended`` by a token, or ``open``; empty where that is not known


def read_answer(row: Mapping[str, Any], response: Any, by_release: bool = False) -> ReadAnswer:
    """Reads a response, a text or a list of texts best first.

    Reasoning is left out (:func:`~.control_text.outside_reasoning`); of an ``<answer>`` block, the content is kept.
    An answer is truncated if its row has a ``finish_reason`` of ``length`` or a true ``truncated``, if a tag or a
    block of reasoning is not closed, or if it ends within a box's coordinates.
    """
    best = response
    if isinstance(best, list):
        best = best[0] if best else None
    if not isinstance(best, str):
        return ReadAnswer("", f"the response is not text: {short(best)}", {"not_text"})
    if by_release:
        text = released.clean(best)
        return ReadAnswer(text, None, set() if has_words(text) else {"empty"})

    cleaned = clean_response(encodable(best))
    outside = outside_reasoning(cleaned)
    block = _ANSWER.search(outside.text) if outside.has_reasoning else _ANSWER.match(outside.text)
    text = (block[1] if block else outside.text).strip()
    kinds = {"with_reasoning"} if outside.has_reasoning else set()
    is_cut = row.get("truncated") is True or row.get("finish_reason") in _LENGTH
    if is_cut or outside.is_open or _is_open(text):
        kinds.add("truncated")
    end = "" if "truncated" in kinds else "ended" if _END.search(best) else "open"
    if has_words(text):
        return ReadAnswer(text, None, kinds, end)
    where = " outside its reasoning" if kinds & {"with_reasoning"} else ""
    return ReadAnswer("", f"the response has no letter or digit{where}: {short(best)}", kinds | {"empty"}, end)


def clean_response(text: str) -> str:
    """The model's answer: the text after the last assistant header, up to the first end token."""
    starts = [turn.end() for turn in _TURN.finditer(text) if turn[1] == "assistant"]
    return _END.split(text[starts[-1] :] if starts else text, maxsplit=1)[0].strip()


def last_question(prompt: Any) -> Any:
    """The last user turn of a decoded ChatML prompt; any other prompt unchanged."""
    if not isinstance(prompt, str):
        return prompt
    turns = _TURN.split(prompt)[1:]
    users = [text for role, text in zip(turns[::2], turns[1::2], strict=True) if role == "user"]
    return _END.split(users[-1], maxsplit=1)[0].strip() if users else prompt


def has_words(text: str) -> bool:
    """Whether a text has a letter or a digit."""
    return any(character.isalnum() for character in text)


def encodable(text: str) -> str:
    """The text without lone surrogates and NUL, which no encoder or Java program accepts."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


def short(value: Any) -> str:
    """The value as it appears in a message."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_open(text: str) -> bool:
    """Whether a text ends within a tag's span or within coordinates."""
    opened = any(text.rfind(tag) > text.rfind(close) for tag, close in _OPENING.items() if tag in text)
    return opened or ("(" in text[-40:] and not text.endswith(")") and _PART_OF_BOX.search(text[-40:]) is not None)
