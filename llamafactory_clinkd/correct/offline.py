# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The default corrector: rewords the ground truth by rules, on this machine, with the same result for the same row.

It makes labels more diverse without changing their meaning. It has no medical knowledge, so it ignores the model's
answer. Rules see each box, and each reference with its boxes, as one *atom*: a private-use character that no rule can
change. Every rule is a pure function of text; a random generator seeded by the row's id chooses which rules apply.
``docs/correction.md`` lists the rules with examples.
"""

import random
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from ..utils.boxes import TAGS, box_strings, strip_boxes
from .corrector import CorrectionItem, CorrectionResult, Usage
from .rewording_validation import label_key


GROUP_SIZE = 32
_FIRST_ATOM, _LAST_ATOM = 0xE000, 0xF8FF
_ATOM = f"[{chr(_FIRST_ATOM)}-{chr(_LAST_ATOM)}]"
_NOUN = r"(?:structure|organ|part|region|bone|tissue|vessel|muscle|gland|joint|lesion|object|landmark)"
_IMAGE = r"(?:image|scan|picture|radiograph|x-ray|mri|ct|slice|photograph|view|film)"
_AT = r"(?:in|at|on|within|near|inside|between|above|below|behind|along)"
_SEEN = r"(?:seen|visible|visualized|shown|present|noted|observed|identified|found)"
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|shows?|appears?|seems?|suggests?|indicates?|represents?|depicts?|displays?|"
    r"contains?|reveals?|demonstrates?|lies|lie)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(rf"(?<=[.!?])\s+(?=[A-Z]|{_ATOM})")
_OPENINGS = ("In the image, {}", "As the image shows, {}", "According to the image, {}", "On this image, {}")
_SAFE_TO_LOWER = frozenset("the this that these those there it its a an no in on at here both some".split())

SYNONYMS = tuple(
    tuple(group.split(" = "))
    for group in (
        "shows = demonstrates = displays = reveals; showing = demonstrating = displaying; adjacent to = next to; "
        "close to = near; approximately = about = roughly; consistent with = compatible with; due to = because of; "
        "multiple = several; region = area; evidence of = signs of; appears to be = seems to be; "
        "appear to be = seem to be; in addition = additionally; within = inside; likely = probably; "
        "possibly = perhaps; such as = like; located = situated; visualized = seen; contains = includes; "
        "as well as = and also; suggestive of = suggesting; surrounded by = encircled by"
    ).split("; ")
)
"""Words of the same meaning; none is a critical word of :mod:`.rewording_validation`."""


class OfflineCorrector:
    """Rewords by the rules of this module; at most ``candidates`` rewordings a row, ValueError if below 1."""

    name = "offline:rules-1"
    prompt_text = ""

    def __init__(self, candidates: int = 3):
        if candidates < 1:
            raise ValueError(f"correction_candidates is {candidates}: expected at least 1.")
        self._candidates = candidates
        self.start_round(Usage())

    def start_round(self, usage: Usage) -> None:
        """See :meth:`.Corrector.start_round`; rules cost nothing."""
        self.usage = usage

    def correct(self, items: Iterable[CorrectionItem]) -> Iterator[list[CorrectionResult]]:
        """See :meth:`.Corrector.correct`."""
        results = map(self._correct_one, items)
        while group := list(islice(results, GROUP_SIZE)):
            yield group

    def _correct_one(self, item: CorrectionItem) -> CorrectionResult:
        rewordings = reword(item.annotation, question=item.question, seed=item.id, count=self._candidates)
        return CorrectionResult(item.id, tuple(rewordings), None if rewordings else "no_rule")


def reword(text: str, *, question: str, seed: str, count: int) -> list[str]:
    """Up to ``count`` distinct rewordings of ``text``, none equal to it but for case and final mark.

    ``text`` has boxes and tags of any style. The question supplies a subject, never a fact. ``seed`` is the row's id:
    equal arguments give equal results on every machine.
    """
    if not text.strip() or re.search(_ATOM, text):
        return []
    rng = random.Random(seed)  # a str seed goes through SHA-512: independent of PYTHONHASHSEED
    protected = protect(text.strip())
    question = strip_boxes(question)
    is_short = len(protected.text.split()) <= 6 and not re.search(r"[;:]", protected.text)

    if not strip_boxes(text):
        pool: Iterable[str] = _rotated(_box_only_frames(protected.text, question), rng)
    elif is_short and not (_VERB.search(protected.text) or _SENTENCE_END.search(protected.text)):
        pool = _label_frames(protected.text, question)
    else:
        pool = _reworded_sentences(protected.text, rng, count)

    used_keys, results = {label_key(text)}, []
    for candidate in pool:
        restored = protected.restore(candidate)
        if label_key(restored) not in used_keys:
            used_keys.add(label_key(restored))
            results.append(restored)
    return results[:count]


class Protected(NamedTuple):
    """A text with atoms in place of boxes and references."""

    text: str
    atoms: tuple[str, ...]
    """The original text of each atom."""

    def restore(self, text: str) -> str:
        """Replaces the atoms of ``text`` by the boxes and references."""
        return re.sub(_ATOM, lambda match: self.atoms[ord(match[0]) - _FIRST_ATOM], text)


def protect(text: str) -> Protected:
    """Replaces each box, and each reference with its boxes, by an atom; ``text`` has no private-use characters.

    Raises:
        ValueError: If there are more atoms than private-use characters.
    """
    spans = [rf"{re.escape(tags[k])}.*?{re.escape(tags['/' + k])}" for tags in TAGS.values() for k in ("ref", "box")]
    spans += [re.escape(box) for box in dict.fromkeys(box_strings(text))]
    span = f"(?:{'|'.join(spans)})"
    atoms: list[str] = []

    def to_atom(match: re.Match) -> str:
        atoms.append(match[0])
        return chr(_FIRST_ATOM + len(atoms) - 1)

    protected = re.sub(rf"{span}(?:[\s,]*{span})*", to_atom, text, flags=re.IGNORECASE | re.DOTALL)
    if len(atoms) > _LAST_ATOM - _FIRST_ATOM:
        raise ValueError(f"The text has {len(atoms)} groups of boxes: expected at most {_LAST_ATOM - _FIRST_ATOM}.")
    return Protected(protected, tuple(atoms))


def frame_variants(sentence: str) -> list[str]:
    """The sentence in other fixed frames, without opening words; empty if none fits. It keeps its final mark."""
    mark = sentence[-1] if sentence[-1] in ".!?" else ""
    body = sentence[: len(sentence) - len(mark)]
    if mark == "?" or re.search(r",|;|\b(?:which|that|who|because|while|but|although)\b", body):
        return []

    variants: list[str] = []
    if match := re.fullmatch(
        rf"((?:The|This) (?:[\w-]+ ){{0,2}}(?i:{_IMAGE})) (?:shows|demonstrates|displays|depicts|reveals) (.+)", body
    ):
        image, thing = _lower_first(match[1]), match[2]
        variants += [f"{_upper_first(thing)} can be seen in {image}", f"In {image}, {thing} can be seen"]
    elif match := re.fullmatch(rf"There (is|are) (.+?)((?: {_AT} .+)?)", body):
        be, thing, place = match.groups()
        variants += [f"{_upper_first(thing)} {be} {seen}{place}" for seen in ("present", "seen", "visible")]
    elif match := re.fullmatch(rf"(.+?) (is|are) (?:located|situated|found) ({_AT} .+)", body):
        thing, be, place = match.groups()
        lies = "lies" if be == "is" else "lie"
        variants += [f"{thing} can be found {place}", f"{thing} {lies} {place}", f"{thing} {be} located {place}"]
    elif match := re.fullmatch(rf"((?:An?|No|Multiple|Several|Some) .+?) (is|are) {_SEEN}((?: {_AT} .+)?)", body):
        thing, be, place = match.groups()
        variants += [f"There {be} {_lower_first(thing)}{place}"]
    elif match := re.fullmatch(r"(?:This|It) is (.+)", body):
        variants += [f"What is shown is {match[1]}"]
    return [variant + mark for variant in variants if variant != body]


def synonym_sites(text: str) -> list[tuple[int, int, tuple[str, ...]]]:
    """The words of :data:`SYNONYMS` in ``text`` as (start, end, replacements), left to right without overlap."""
    sites: list[tuple[int, int, tuple[str, ...]]] = []
    for group in SYNONYMS:
        for match in re.finditer(rf"\b(?:{'|'.join(group)})\b", text, re.IGNORECASE):
            word = match[0]
            others = tuple(other for other in group if other != word.lower())
            if re.search(r"\ban? $", text[: match.start()], re.IGNORECASE):  # keep "a" and "an" right
                others = tuple(other for other in others if (other[0] in "aeiou") == (word[0].lower() in "aeiou"))
            if others and not any(start < match.end() and match.start() < end for start, end, _ in sites):
                others = tuple(_upper_first(other) if word[0].isupper() else other for other in others)
                sites.append((match.start(), match.end(), others))
    return sorted(sites)


def _label_frames(label: str, question: str) -> list[str]:
    """Rewordings of a label; those that add the least come first."""
    label = label.strip().rstrip(".")
    polar = re.match(r"(yes|no)\b", label, re.IGNORECASE)
    if polar and len(label.split()) == 1:
        return ["Yes, that is the case."] if polar[1].lower() == "yes" else ["No, that is not the case."]

    plain = _lower_first(label)
    if re.match(rf"{_AT}\b", plain):
        return [f"It is {plain}.", f"It is located {plain}.", f"It can be found {plain}."]
    noun = re.search(rf"\b({_NOUN})s?\b", question, re.IGNORECASE)
    is_count = re.match(r"\d", plain) or re.search(r"\bhow many\b", question, re.IGNORECASE)
    is_place = re.fullmatch(_ATOM, plain) and re.match(r"\s*where\b", question, re.IGNORECASE)
    if is_count or not (noun or is_place):
        return [f"It is {plain}.", f"This is {plain}.", f"The answer is {plain}."]

    article = re.match(r"(?:the|an?)\s+", plain, re.IGNORECASE)
    phrase = plain if article else f"the {plain}"
    shortest = plain[article.end() :] if article else phrase
    frames = [f"{_upper_first(shortest)}.", f"This is {phrase}.", f"It is {phrase}."]
    return [*frames, f"The {noun[1].lower()} is {phrase}."] if noun else frames


def _box_only_frames(atoms: str, question: str) -> list[str]:
    """Rewordings of an answer that is boxes alone, already replaced by ``atoms``."""
    frames = [f"It is located at {atoms}.", f"Located at {atoms}.", f"It can be found at {atoms}.", f"Here: {atoms}."]
    rest = r"(?:\b(?:located|situated|found|seen|in|on|at|within)\b.*)?\?"
    subject = re.match(rf"\s*where\s+(is|are)\s+(.+?)\s*{rest}", question, re.IGNORECASE)
    if subject and not re.search(_ATOM, subject[2]):
        be, what = subject[1].lower(), _upper_first(subject[2])
        frames = [f"{what} {be} located at {atoms}.", f"{what} can be seen at {atoms}.", *frames]
    return frames


def _reworded_sentences(text: str, rng: random.Random, count: int) -> Iterator[str]:
    """``4 * count`` random combinations of frames and synonyms, then the text after each opening."""
    sentences = _SENTENCE_END.split(text)
    for _ in range(4 * count):
        yield " ".join([_reworded_sentence(sentence, rng) for sentence in sentences])
    first_word = re.match(r"\w+", text)
    continued = _lower_first(text) if first_word and first_word[0].lower() in _SAFE_TO_LOWER else text
    for opening in _rotated(list(_OPENINGS), rng):
        yield opening.format(continued)


def _reworded_sentence(sentence: str, rng: random.Random) -> str:
    variants = frame_variants(sentence)
    if variants and rng.random() < 0.7:
        sentence = rng.choice(variants)
    for start, end, others in reversed(synonym_sites(sentence)):
        if rng.random() < 0.7:
            sentence = sentence[:start] + rng.choice(others) + sentence[end:]
    return sentence


def _rotated(frames: list[str], rng: random.Random) -> list[str]:
    start = rng.randrange(len(frames))
    return frames[start:] + frames[:start]


def _lower_first(text: str) -> str:
    """Lower-cases the first letter unless the first word is an acronym, a name in 's, or has capitals inside."""
    word = text.split(" ", 1)[0]
    is_name = word[1:] != word[1:].lower() or "'" in word or (len(word) == 1 and word != "A")
    return text if is_name else text[:1].lower() + text[1:]


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]
