# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a rewording may not hold, whatever it means: text that controls a model, and the traces of a chat."""

import re

from ..utils.boxes import IMAGE_PLACEHOLDER, TAGS
from ..utils.control_text import control_character, special_token


_BOX_TAGS = "|".join(re.escape(tag) for style in TAGS.values() for tag in style.values())
_REWORDED = (
    r"(?:re-?(?:writ|word|phras|stat|vis|formulat)|paraphras|correct|alternativ|candidate|version|answer|option)"
)
_CHAT = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # markup of a page or a chat template; Markdown; JSON
        rf"(?!{_BOX_TAGS})</?[a-z][\w:-]*(?:\s[^<>]*)?/?>|\[/?INST\]|<</?SYS>>",
        r"```|\*\*|__\w|^\s*(?:#{1,6}|>)\s|(?:^|\n)\s*(?:[-*•]|\d{1,2}[.)])\s",
        r"[{}]|\"candidates\"|\\[nu\"]",
        # a transcript
        r"(?:^|[\s.\"'])(?:human|user|assistant|system|chatgpt|gpt|bot|ai|question|answer|q)\s*\d*\s*:",
        # preambles
        r"^\W*(?:sure|certainly|of course|absolutely|okay|ok|great|gladly|happy to)\b\s*[,!.:;–—]",
        rf"^\W*(?:here(?:['’]s| is| are)|below (?:is|are)|this is|my|the)\b[^.]{{0,60}}\b{_REWORDED}\w*[^.]{{0,60}}:",
        rf"^\W*(?:(?:re-?written|re-?worded|rephrased|revised|new|first|second|third|\d)\W+)*{_REWORDED}"
        r"\w*(?:\s+(?:answer|sentence|text|version))?\s*(?:#?\d+)?\s*[:\-–]\s",
        # closing words and remarks
        r"\b(?:let me know|hope (?:this|that) helps|feel free to|would you like)\b|\bi(?:['’]ve| have) re-?\w+ed\b",
        r"\bas an ai\b|\bi(?:['’]m| am) (?:sorry|unable|afraid)\b|\bi can(?:no|['’])t (?:help|assist|comply)\b",
        r"\bnote:|\((?:note|re-?worded|re-?written|rephrased|paraphrased?|same meaning)\b",
    )
)
_QUOTED = re.compile(r"^\s*[\"'“”‘«`].*[\"'“”’»`]\s*[.!]?\s*$", re.DOTALL)


def text_reasons(candidate: str, annotation: str) -> list[str]:
    """Why the text of a rewording may not be trained on; empty if it may.

    Args:
        candidate: The rewording.
        annotation: The ground truth. A trace of a chat that it has itself (a list, quotation marks) is allowed.

    Returns:
        ``control_text``: a special token, a media placeholder, or a control character; ``chat_text``: a preamble, a
        transcript, Markdown, markup, JSON, quotation marks around the whole.
    """
    if (
        special_token(candidate)
        or control_character(candidate, joiners=False)
        or IMAGE_PLACEHOLDER in candidate.lower()
    ):
        return ["control_text"]
    found = [pattern for pattern in (*_CHAT, _QUOTED) if pattern.search(candidate)]
    return ["chat_text"] if any(not pattern.search(annotation) for pattern in found) else []
