# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One wording for what radiology texts write in several ways: abbreviations, numbers, introducing phrases.

``clinical_terms.json`` has the abbreviations, the phrases and the words that have a role of their own.
"""

import re
from pathlib import Path

from ..utils.boxes import strip_boxes
from ..utils.io import read_json
from .quantities import in_one_form


_TERMS = read_json(Path(__file__).with_name("clinical_terms.json"))
SAME = {word: key for key, words in _TERMS["same"].items() for word in words.split()}
CERTAINTY, REPORTING, HOLDING, WEAK, MEASURES, NEGATIONS = (
    frozenset(_TERMS[kind].split()) for kind in ("certainty", "reporting", "holding", "weak", "measures", "negations")
)
OPPOSED = ({"left", "right"}, {"upper", "lower"}, {"anterior", "posterior"}, {"medial", "lateral"}, {"above", "below"})
POSITIONS = frozenset(_TERMS["positions"].split()).union(*OPPOSED)

_PHRASES = [(re.compile(rf"(?<!\w)(?:{old})(?!\w)", re.IGNORECASE), new) for old, new in _TERMS["phrases"].items()]
_ANSWER_IS = re.compile(r"\s*(?:the )?answer(?: to (?:the|this) question)? is:? ", re.IGNORECASE)
_ANSWER = re.compile(r"\s*(yes|no)\b\s*(?:[,.;:!]\s*|$)", re.IGNORECASE)
_CONFIRMED = {"yes": re.compile(r"(?:that|this) is the case\b"), "no": re.compile(r"(?:that|this) is not the case\b")}
_TITLE = re.compile(r"\b[A-Z][a-z]+\b")
_PREFIX = re.compile(r"\b(non|extra|intra|supra|infra|sub|hyper|hypo|iso|peri|pre|post|anti|micro|macro|un)-(?=[a-z])")
_LEVELS = re.compile(r"\b([A-Z]\d+)[-–/]([A-Z]?\d+)\b")


def plain_wording(text: str) -> tuple[str, str]:
    """The "yes" or "no" that a text begins with, else an empty string, and the rest of the text in one wording.

    Boxes and tags are left out. "Nodule of 1.2 cm in the LUL" becomes "nodule of 12 mm in the left upper lobe."
    """
    text = _ANSWER_IS.sub("", " ".join(strip_boxes(text).split()), count=1)
    found = _ANSWER.match(text)
    answer, text = (found[1].lower(), text[found.end() :]) if found else ("", text)
    if answer:
        text = _CONFIRMED[answer].sub("", text)
    for pattern, plain in _PHRASES:
        text = pattern.sub(plain, text)
    text = _LEVELS.sub(r"\1_\2", re.sub(r"\b(\w+) ?\(\1\)", r"\1", text))
    words = re.split(r"(?<![\w/-])|(?![\w/-])", in_one_form(text))
    text = "".join(_TERMS["abbreviations"].get(word, word) for word in words)
    text = _PREFIX.sub(r"\1", _TITLE.sub(lambda match: match[0].lower(), text))
    text = " ".join(text.split()).lstrip(" ,").rstrip(" .")
    return answer, f"{text}." if text else ""
