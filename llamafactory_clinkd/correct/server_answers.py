# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The candidates in a model's answer: reasoning is dropped, refusals and truncated answers are told apart.

``docs/correction.md`` lists the codes. Where two readings are possible, the answer counts as unparsable.
"""

import json
import re
from typing import Any

from ..utils.control_text import drop_reasoning
from .english import RULES


PARSE_ATTEMPTS = 200  # brackets at which JSON may start; bounds the time spent on nonsense
TRUNCATED = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
FILTERED = frozenset({"content_filter", "safety", "prohibited_content", "recitation", "blocklist", "refusal"})
_BRACKET = re.compile(r"[\[{]")
_RULES = RULES["reply"]
_REFUSAL = re.compile(_RULES["refusal"].replace("HELPING", _RULES["helping"]))
_PLACEHOLDER = re.compile(_RULES["placeholder"].replace("ORDINAL", _RULES["ordinal"]))


class AnswerError(ValueError):
    """An answer without candidates; its text is a short code such as ``length`` and holds no text of the answer."""


def message_text(choice: Any) -> str:
    """The text of a chat completion's choice; ``reasoning_content`` and other fields are not read.

    A content in parts is the text of its text parts: parts of another type hold a model's thoughts.

    Raises:
        AnswerError: ``length`` if the answer was cut off, ``content_filter`` or ``refusal`` if the server says so.
        AttributeError: If the choice has no message.
    """
    finish, message = str(getattr(choice, "finish_reason", "")).lower(), choice.message
    content, refusal = message.content, getattr(message, "refusal", None)
    if finish in TRUNCATED:
        raise AnswerError("length")
    if finish in FILTERED:
        raise AnswerError("content_filter")
    if refusal:
        raise AnswerError("refusal")
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text")
        content = "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def parse_answer(content: str, count: int) -> tuple[str, ...]:
    """Reads the candidates of an answer, at most ``count``, distinct, in order.

    They are the list of strings under ``candidates`` in the last JSON object that has this key, or, in a text without
    any object, the last JSON list of strings; with or without a code fence or prose around it.

    Raises:
        AnswerError: ``empty_answer``, ``refusal``, ``placeholder`` (the form of the answer, repeated), ``unparsable``.
    """
    content = drop_reasoning(content)
    if not content.strip():
        raise AnswerError("empty_answer")
    values = list(_json_values(content))
    objects = [value["candidates"] for value in values if isinstance(value, dict) and "candidates" in value]
    lists = objects or ([value for value in values if isinstance(value, list)] if "{" not in content else [])
    readable = [texts for value in lists if isinstance(value, list) and (texts := list(filter(_is_text, value)))]
    if not readable or (objects and not isinstance(objects[-1], list)):
        raise AnswerError("refusal" if _REFUSAL.search(content) else "unparsable")
    filled = [texts for texts in readable if not all(map(_PLACEHOLDER.fullmatch, texts))]
    if not filled:
        raise AnswerError("placeholder")
    candidates = [text for text in map(str.strip, filled[-1]) if not _REFUSAL.search(text)]
    if not candidates:
        raise AnswerError("refusal")
    return tuple(dict.fromkeys(map(str.strip, _unwrapped(candidates))))[:count]


def _json_values(content: str) -> list[Any]:
    """The JSON values in a text that are in no other one, in order."""
    decoder, position, values = json.JSONDecoder(), 0, []
    for _ in range(PARSE_ATTEMPTS):
        if not (bracket := _BRACKET.search(content, position)):
            return values
        try:
            value, position = decoder.raw_decode(content, bracket.start())
            values.append(value)
        except (ValueError, RecursionError):
            position = bracket.end()
    return []


def _is_text(value: Any) -> bool:
    """Whether it is a string with text; half of a surrogate pair can neither be saved nor tokenized."""
    return isinstance(value, str) and bool(value.strip()) and not re.search("[\ud800-\udfff]", value)


def _unwrapped(candidates: list[str]) -> list[str]:
    """Without numbers, bullets or quotation marks that wrap all candidates: the form of a list, not of a text."""
    numbered = [re.fullmatch(rf"{number}[.)] (.+)", text) for number, text in enumerate(candidates, start=1)]
    bulleted = [re.fullmatch(r"[-*•] (.+)", text) for text in candidates]
    for matches in (numbered if len(candidates) > 1 else [], bulleted):
        if matches and all(matches):
            candidates = [match[1] for match in matches if match]
    quoted = [re.fullmatch(r"\"([^\"]+)\"|“([^“”]+)”|«([^«»]+)»", text) for text in candidates]
    return [next(filter(None, match.groups())) for match in quoted if match] if all(quoted) else candidates
