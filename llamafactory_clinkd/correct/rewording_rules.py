# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Stated rules that reword English answers about images and keep their meaning.

The text that the rules see has each box, and each reference with its boxes, as one opaque *atom*: a private-use
character, which no rule can change. Every rule is a pure function of text; which rules fire is the caller's draw.

==================  ======================================================================================
kind of text        rules
==================  ======================================================================================
sentence            fixed frames, active to passive and back: "The image shows X" <-> "X can be seen in the
                    image"; "There is X in Y" <-> "X is present in Y"; "X is located in Y" -> "X lies in Y"
any                 words of one meaning: "adjacent to" -> "next to"
label               a noun after a question for a structure gets its article, and a frame: "Sacrum" -> "This
                    is the sacrum."; other labels get a frame alone: "It is axial."
boxes alone         a locating frame, with the question's subject if it is found: "Where is the left hip?"
                    -> "The left hip is located at <box>..</box>."
==================  ======================================================================================
"""

import re
from typing import NamedTuple

from ..utils.boxes import TAGS, box_strings


_FIRST_ATOM = 0xE000
ATOM = "[\ue000-\uf8ff]"
_NOUN = r"(?:structure|organ|part|region|bone|tissue|vessel|muscle|gland|joint|lesion|object|landmark)"
_IMAGE = r"(?:image|scan|picture|radiograph|x-ray|mri|ct|slice|photograph|view|film)"
_AT = r"(?:in|at|on|within|near|inside|between|above|below|behind|along)"
_SEEN = r"(?:seen|visible|visualized|shown|present|noted|observed|identified|found)"

# Words that may stand for each other wherever one of them stands. None is a critical word (meaning.py).
SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("shows", "demonstrates", "displays", "reveals"),
    ("showing", "demonstrating", "displaying"),
    ("adjacent to", "next to"),
    ("close to", "near"),
    ("approximately", "about", "roughly"),
    ("consistent with", "compatible with"),
    ("due to", "because of"),
    ("multiple", "several"),
    ("region", "area"),
    ("evidence of", "signs of"),
    ("appears to be", "seems to be"),
    ("appear to be", "seem to be"),
    ("in addition", "additionally"),
    ("within", "inside"),
    ("likely", "probably"),
    ("possibly", "perhaps"),
    ("such as", "like"),
    ("located", "situated"),
    ("visualized", "seen"),
    ("contains", "includes"),
    ("as well as", "and also"),
    ("suggestive of", "suggesting"),
    ("surrounded by", "encircled by"),
)

OPENINGS = ("In the image, {}", "As the image shows, {}", "According to the image, {}", "On this image, {}")
_SAFE_TO_LOWER = frozenset("the this that these those there it its a an no in on at here both some".split())


class Protected(NamedTuple):
    """A text with atoms, and what they stand for."""

    text: str
    atoms: tuple[str, ...]

    def restore(self, text: str) -> str:
        """Puts the boxes and references back."""
        return re.sub(ATOM, lambda match: self.atoms[ord(match[0]) - _FIRST_ATOM], text)


def protect(text: str) -> Protected:
    """Replaces each box, and each reference with its boxes, by an atom.

    Raises:
        ValueError: If the text has private-use characters already, or more atoms than there are such characters.
    """
    if re.search(ATOM, text):
        raise ValueError("The text has private-use characters (U+E000 to U+F8FF), which stand for boxes here.")
    spans = [rf"{re.escape(tags[k])}.*?{re.escape(tags['/' + k])}" for tags in TAGS.values() for k in ("ref", "box")]
    spans += [re.escape(box) for box in dict.fromkeys(box_strings(text))]
    one = "|".join(spans)
    atoms: list[str] = []

    def take(match: re.Match) -> str:
        atoms.append(match[0])
        return chr(_FIRST_ATOM + len(atoms) - 1)

    found = re.sub(rf"(?:{one})(?:[\s,]*(?:{one}))*", take, text, flags=re.IGNORECASE | re.DOTALL)
    if len(atoms) > 0xF8FF - _FIRST_ATOM:
        raise ValueError(f"The text has {len(atoms)} groups of boxes, more than can be kept apart.")
    return Protected(found, tuple(atoms))


def lower_first(text: str) -> str:
    """Lower-cases the first letter unless the first word is an acronym, a name in 's, or has capitals inside."""
    word = text.split(" ", 1)[0]
    is_name = word[1:] != word[1:].lower() or "'" in word or (len(word) == 1 and word != "A")
    return text if is_name else text[:1].lower() + text[1:]


def upper_first(text: str) -> str:
    """Upper-cases the first letter."""
    return text[:1].upper() + text[1:]


def label_frames(label: str, question: str) -> list[str]:
    """Rewordings of a label; those that add the least come first."""
    label = label.strip().rstrip(".")
    polar = re.match(r"(yes|no)\b", label, re.IGNORECASE)
    if polar and len(label.split()) == 1:
        return ["Yes, that is the case."] if polar[1].lower() == "yes" else ["No, that is not the case."]

    plain = lower_first(label)
    if re.match(rf"{_AT}\b", plain):
        return [f"It is {plain}.", f"It is located {plain}.", f"It can be found {plain}."]
    asked = re.search(rf"\b({_NOUN})s?\b", question, re.IGNORECASE)
    counted = re.match(r"\d", plain) or re.search(r"\bhow many\b", question, re.IGNORECASE)
    located = re.fullmatch(ATOM, plain) and re.match(r"\s*where\b", question, re.IGNORECASE)
    if counted or not (asked or located):
        return [f"It is {plain}.", f"This is {plain}.", f"The answer is {plain}."]

    article = re.match(r"(?:the|an?)\s+", plain, re.IGNORECASE)
    noun = plain if article else f"the {plain}"
    shortest = plain[article.end() :] if article else noun
    frames = [f"{upper_first(shortest)}.", f"This is {noun}.", f"It is {noun}."]
    return [*frames, f"The {asked[1].lower()} is {noun}."] if asked else frames


def box_only_frames(atoms: str, question: str) -> list[str]:
    """Rewordings of an answer that is boxes alone; ``atoms`` stand for them."""
    frames = [f"It is located at {atoms}.", f"Located at {atoms}.", f"It can be found at {atoms}.", f"Here: {atoms}."]
    rest = r"(?:\b(?:located|situated|found|seen|in|on|at|within)\b.*)?\?"
    subject = re.match(rf"\s*where\s+(is|are)\s+(.+?)\s*{rest}", question, re.IGNORECASE)
    if subject and not re.search(ATOM, subject[2]):
        be, what = subject[1].lower(), upper_first(subject[2])
        frames = [f"{what} {be} located at {atoms}.", f"{what} can be seen at {atoms}.", *frames]
    return frames


def frame_variants(sentence: str) -> list[str]:
    """The sentence in other fixed frames, without opening words; empty if none fits. It keeps its final mark."""
    mark = sentence[-1] if sentence[-1] in ".!?" else ""
    body = sentence[: len(sentence) - len(mark)]
    if mark == "?" or re.search(r",|;|\b(?:which|that|who|because|while|but|although)\b", body):
        return []

    variants: list[str] = []
    if found := re.fullmatch(
        rf"((?:The|This) (?:[\w-]+ ){{0,2}}(?i:{_IMAGE})) (?:shows|demonstrates|displays|depicts|reveals) (.+)", body
    ):
        image, thing = lower_first(found[1]), found[2]
        variants += [f"{upper_first(thing)} can be seen in {image}", f"In {image}, {thing} can be seen"]
    elif found := re.fullmatch(rf"There (is|are) (.+?)((?: {_AT} .+)?)", body):
        be, thing, place = found.groups()
        variants += [f"{upper_first(thing)} {be} {seen}{place}" for seen in ("present", "seen", "visible")]
    elif found := re.fullmatch(rf"(.+?) (is|are) (?:located|situated|found) ({_AT} .+)", body):
        thing, be, place = found.groups()
        lies = "lies" if be == "is" else "lie"
        variants += [f"{thing} can be found {place}", f"{thing} {lies} {place}", f"{thing} {be} located {place}"]
    elif found := re.fullmatch(rf"((?:An?|No|Multiple|Several|Some) .+?) (is|are) {_SEEN}((?: {_AT} .+)?)", body):
        thing, be, place = found.groups()
        variants += [f"There {be} {lower_first(thing)}{place}"]
    elif found := re.fullmatch(r"(?:This|It) is (.+)", body):
        variants += [f"What is shown is {found[1]}"]
    return [variant + mark for variant in variants if variant != body]


def synonym_sites(text: str) -> list[tuple[int, int, tuple[str, ...]]]:
    """Where a word of :data:`SYNONYMS` stands: (start, end, its replacements), left to right without overlap."""
    sites: list[tuple[int, int, tuple[str, ...]]] = []
    for group in SYNONYMS:
        for match in re.finditer(rf"\b(?:{'|'.join(group)})\b", text, re.IGNORECASE):
            found = match[0]
            others = tuple(word for word in group if word != found.lower())
            if re.search(r"\ban? $", text[: match.start()], re.IGNORECASE):  # keep "a" and "an" right
                others = tuple(word for word in others if (word[0] in "aeiou") == (found[0].lower() in "aeiou"))
            if others and not any(start < match.end() and match.start() < end for start, end, _ in sites):
                others = tuple(upper_first(word) if found[0].isupper() else word for word in others)
                sites.append((match.start(), match.end(), others))
    return sorted(sites)


def opening_variant(text: str, opening: str) -> str:
    """Puts an opening before a text; its first word is lower-cased only if it is no name."""
    word = re.match(r"\w+", text)
    return opening.format(lower_first(text) if word and word[0].lower() in _SAFE_TO_LOWER else text)
