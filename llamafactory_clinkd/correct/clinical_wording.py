# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One wording for what radiology texts write in several ways: abbreviations, introducing phrases, quantities.

"1.2 cm" and "12mm" both become "12 mm", "two" becomes "2"; pint converts the units. ``clinical_terms.json`` has the
abbreviations, the phrases and the words that have a role of their own.
"""

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..utils.boxes import strip_boxes
from ..utils.io import read_json


_TERMS = read_json(Path(__file__).with_name("clinical_terms.json"))
SAME = {word: key for key, words in _TERMS["same"].items() for word in words.split()}
CERTAINTY, REPORTING, HOLDING, WEAK, MEASURES, NEGATIONS = (
    frozenset(_TERMS[kind].split()) for kind in ("certainty", "reporting", "holding", "weak", "measures", "negations")
)
NEGEX = _TERMS["negex"]
OPPOSED = ({"left", "right"}, {"upper", "lower"}, {"anterior", "posterior"}, {"medial", "lateral"}, {"above", "below"})
POSITIONS = frozenset(_TERMS["positions"].split()).union(*OPPOSED)

_PHRASES = [(re.compile(rf"(?<!\w)(?:{old})(?!\w)", re.IGNORECASE), new) for old, new in _TERMS["phrases"].items()]
_ANSWER_IS = re.compile(r"\s*(?:the )?answer(?: given| to (?:the|this) question)? is:? ", re.IGNORECASE)
_ANSWER = re.compile(r"\s*(yes|no)\b\s*(?:[,.;:!]\s*|$)", re.IGNORECASE)
_CONFIRMED = {
    "yes": re.compile(r"(?:that|this) is the case\b"),
    "no": re.compile(r"(?:that|this) is not the case\b|there (?:is|are|was|were) not(?=\W*$)"),
}
_TITLE = re.compile(r"\b[A-Z][a-z]+\b")
_PREFIX = re.compile(r"\b(non|extra|intra|supra|infra|sub|hyper|hypo|iso|peri|pre|post|anti|micro|macro|un)-(?=[a-z])")
_LEVELS = re.compile(r"\b([A-Z]\d+)[-–/]([A-Z]?\d+)\b")
_BASE_UNITS = {"[length]": "mm", "[length] ** 2": "mm**2", "[length] ** 3": "ml", "[mass]": "g"}
UNITS = frozenset(unit.replace("**", "") for unit in _BASE_UNITS.values())
_NO_UNITS = frozenset("a as at c d h in no or x foot feet hand hands rod rods".split())
_CARDINALS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_ORDINALS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
_ROMAN = {numeral: number for number, numeral in enumerate("I II III IV V VI VII VIII IX X XI XII".split(), start=1)}
_SIGNS = {
    "≥": "at least", ">=": "at least", "≤": "at most", "<=": "at most", ">": "more than", "<": "less than",
    "~": "approximately", "≈": "approximately", "±": "plus or minus", "×": "x", "%": "percent",
}  # fmt: skip
_SIGN = re.compile("|".join(map(re.escape, sorted(_SIGNS, key=len, reverse=True))))
_NUMBER = r"\d{1,15}(?:\.\d{1,15})?"
_MIXED = re.compile(r"(?<!\w)(\d{1,9}) (\d{1,9})/([1-9]\d{0,8})(?!\d)")
_UNITS = re.compile(rf"(?<![\w.])({_NUMBER})(?:-| ?)([a-zA-Zµμ]+[23²³]?)(?![\w])")
_SERIES = re.compile(rf"(?<![\w.])({_NUMBER})(?= ?(?:x|by|to|and|or) ?{_NUMBER}(?:-| ?)([a-zA-Zµμ]+)(?!\w))")
_GRADED = re.compile(rf"\b(grade|stage|type|class|nerve|CN|zone|segment) ({'|'.join(_ROMAN)})\b", re.IGNORECASE)
_WORDS = re.compile(rf"\b({'|'.join(_CARDINALS[1:] + _ORDINALS[1:])})\b", re.IGNORECASE)


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


def in_one_form(text: str) -> str:
    """The text with its signs in words, and with its numbers in digits and base units."""
    text = re.sub(r"(\d)[⁄∕](\d)", r"\1/\2", unicodedata.normalize("NFKC", re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)))
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    text = _MIXED.sub(lambda m: f"{float(int(m[1]) + Fraction(int(m[2]), int(m[3])))}", text)
    text = re.sub(r"(?<![\w/])(\d{1,9})/([1-9]\d{0,8})(?![\w/])", lambda m: f"{int(m[1]) / int(m[2]):.6g}", text)
    text = re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)[-–](?=\d)", r"\1 to ", text)
    text = re.sub(r"(?<![\w.)])[-−](?=\d)", " minus ", text)
    text = _SIGN.sub(lambda match: f" {_SIGNS[match[0]]} ", text)
    text = _GRADED.sub(lambda match: f"{match[1]} {_ROMAN[match[2].upper()]}", text)
    text = _WORDS.sub(_digits, text)
    for _ in range(3):  # "2 x 3 x 4 cm" takes its unit from right to left
        text = _SERIES.sub(lambda match: f"{match[1]} {match[2]}" if _base_unit(match[2]) else match[0], text)
    return _UNITS.sub(_converted, text)


def _digits(match: re.Match[str]) -> str:
    word = match[1].lower()
    if word in _CARDINALS:
        return str(_CARDINALS.index(word))
    number = _ORDINALS.index(word)
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number, 'th') }"


def _converted(match: re.Match[str]) -> str:
    base = _base_unit(match[2])
    if base is None:
        return match[0] if re.match(r"st|nd|rd|th", match[2]) else f"{match[1]} {match[2]}"
    unit, factor = base
    return f"{float(Fraction(match[1]) * Fraction(factor).limit_denominator(10**9)):.6g} {unit}"


@lru_cache(maxsize=4096)
def _base_unit(name: str) -> tuple[str, float] | None:
    """The base unit of a unit and how many it has; None for a word that is no unit of a medical text."""
    import pint

    if name.lower() in _NO_UNITS or name.lower() in ("st", "nd", "rd", "th"):
        return None
    name = name.replace("²", "2").replace("³", "3")
    registry = _registry()
    try:
        unit = registry.Unit(re.sub(r"(?<=[a-z])([23])$", r"**\1", {"cc": "ml"}.get(name, name)))
        base = _BASE_UNITS.get(str(unit.dimensionality))
        return base and (base.replace("**", ""), registry.Quantity(1, unit).to(base).magnitude)
    except (pint.errors.PintError, ValueError, AttributeError, TypeError, AssertionError):
        return None


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    return pint.UnitRegistry()
