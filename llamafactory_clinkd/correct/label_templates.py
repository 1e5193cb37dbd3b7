# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rewordings of a short answer ("right lung", "axial", "yes"), as a sentence that fits its question.

An article is added only where it is certain: "the" for a place or an organ that was asked for, "a" or "an" before a
countable finding, none before a plural, a name, or a noun that has a form without a plural. Otherwise the label stays
as it is after a heading ("Modality: CT").
"""

import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from .english import (
    PLURAL_TAGS,
    RULES,
    inflected,
    is_adjective,
    is_singular,
    is_uncountable,
    lower_first,
    with_article,
)


Kind = Literal["number", "place", "adjective", "plural", "name", "noun", "other"]
_LABEL = RULES["label"]
_COUNTABLE, _ORGANS = (frozenset(_LABEL[kind].split()) for kind in ("countable", "organs"))
_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _LABEL["patterns"].items()}
_BE_OR_DO = frozenset("is are does do was were has have had can could did".split())


class _Answer(NamedTuple):
    plain: str  # without a capital and a final mark
    kind: Kind
    noun: str | None  # with its article
    question: str
    asked: Any  # the parsed question
    refers: bool  # false for an organ that the question does not point at ("Which organ is enlarged?")


def label_variants(label: str, question: str, parse: Any) -> list[str]:
    """Rewordings of a label, without its final mark; sentences before headings.

    Args:
        label: A short answer. It may hold atoms for boxes.
        question: Without boxes and tags.
        parse: The spaCy pipeline.
    """
    plain, asked = lower_first(label.strip().rstrip("."), label=True), parse(" ".join(question.split()))
    if not plain or label.rstrip().endswith("?") or plain in _LABEL["unanswered"] or plain.startswith("not "):
        return []
    if plain.lower() in ("yes", "no"):
        return list(_polar_variants(plain.lower(), asked))
    if any(_PATTERNS[kind].search(question) for kind in ("manner", "excepts", "doubts")):
        is_clause = any(token.dep_ in ("nsubj", "mark") for token in parse(f"{plain}."))
        named = _with_article(plain, "", parse) if plain.split()[-1] in _COUNTABLE else plain
        return [] if is_clause else [f"{frame} {named}" for frame in _LABEL["neutral"]]
    kind, noun = _kind(plain, parse), _with_article(plain, question, parse)
    heading = None if asked[:1].text.lower() in _BE_OR_DO else _heading(question, asked)
    if heading == "location" and (kind == "other" or (noun and not noun.startswith("the "))):
        heading = None
    refers = not (noun or "").startswith("the ") or bool(_PATTERNS["refers"].search(question))
    answer = _Answer(plain, kind, noun, question, asked, refers)
    return [*_statements(answer), *_headed(answer, heading)]


def _polar_variants(answer: str, question: Any) -> Iterator[str]:
    """Templates like "Is there a mass?", "Yes" -> "Yes, there is a mass."."""
    subjects = (t for t in question if t.dep_ in ("nsubj", "nsubjpass", "expl") and t.left_edge.i == 1)
    subject = next((token for token in subjects if token.head.i in (0, question[0].head.i)), None)
    verb, words = question[:1].text.lower(), {token.lower_ for token in question}
    if subject is not None and verb in _BE_OR_DO:
        end, main, is_there = subject.right_edge.i + 1, question[0].head, subject.dep_ == "expl"
        who, rest = lower_first(question[1:end].text), question[end:-1].text
        is_clear = rest and len(question) < 20 and not words & {"or", "any", "you", "either", "-", "/"}
        if is_clear and question[-1].text == "?":
            if answer == "yes" and verb in ("does", "do") and main.i == end:
                form = inflected(main.lemma_, "VBZ" if verb == "does" else "VBP")
                yield f"yes, {who} {form} {question[main.i + 1 : -1].text}"
            elif answer == "yes" and verb in ("is", "are", "was", "were", "has", "have", "can"):
                yield f"yes, {who} {verb} {rest}"
            elif answer == "no" and is_there:
                yield f"no, there {verb} no {re.sub(r'^an? ', '', rest)}"
            elif answer == "no" and verb in ("is", "are", "was", "were", "does", "do"):
                yield f"no, {who} {verb} not {rest}"
        if is_there:
            yield f"yes, there {verb}" if answer == "yes" else f"no, there {verb} not"
    yield "yes, that is the case" if answer == "yes" else "no, that is not the case"
    yield from (f"{frame} {answer}" for frame in _LABEL["neutral"][:2])


def _statements(answer: _Answer) -> Iterator[str]:
    """Whole sentences; with the subject of "What is the plane?", "Where is the mass?"."""
    plain, kind, noun, question, asked, refers = answer
    place = plain if kind == "place" else None
    is_place = noun is not None and noun.startswith("the ") and not re.search(r",|\band\b", plain)
    if kind in ("plural", "noun") and is_place and _PATTERNS["asks_place"].search(question):
        place = f"{'on' if re.search(r'(?:side|surface)$', plain) else 'in'} {noun}"
    where, what = _PATTERNS["where"].fullmatch(question), _PATTERNS["what"].fullmatch(question)
    if where and place:
        yield f"{where[2]} {where[1].lower()} {place}"
    if place and not (where and where[1].lower() == "are"):
        yield from (f"it is {place}", f"it is located {place}")
    if place or re.match(r"\s*where\b", question, re.IGNORECASE):
        return
    if what and (kind in ("number", "name") or (kind == "adjective" and _PATTERNS["attribute"].search(what[1]))):
        yield f"{what[1]} is {plain}"
    elif what and noun and kind == "noun":
        yield f"{what[1]} is {noun}"
    if kind == "plural" and noun:
        yield f"these are {noun}" if refers else f"the answer is {noun}"
        if not noun.startswith("the "):
            yield f"{noun} are seen"
    elif kind == "noun" and noun:
        yield from (f"this is {noun}", f"it is {noun}") if refers else (f"it is {noun}",)
    elif kind in ("adjective", "name") and not any(map(_is_plural, asked)):
        yield f"it is {plain}"


def _is_plural(token: Any) -> bool:
    """Whether a word of a question makes "it" wrong: "are", "nodules", "hila"."""
    latin = token.pos_ in ("NOUN", "PROPN", "ADJ") and token.lower_.endswith("a") and not is_singular(token.lower_)
    return token.lower_ == "are" or token.tag_ in PLURAL_TAGS or latin


def _headed(answer: _Answer, heading: str | None) -> Iterator[str]:
    """The label after a heading, which needs no article and no agreement."""
    plain, kind, noun, question, _, refers = answer
    if heading:
        yield f"{heading}: {plain}"
    if heading and heading in question.lower() and kind in ("number", "adjective", "name") and heading != "location":
        yield f"the {heading} is {plain}"
    if not refers:
        yield from (f"{frame} {noun}" for frame in _LABEL["neutral"])
    elif kind in ("number", "adjective", "place"):
        yield from (f"{frame} {plain}" for frame in _LABEL["neutral"][:2])
    else:
        yield from (f"{frame} {plain}" for frame in _LABEL["shown"])


def _heading(question: str, asked: Any) -> str | None:
    """What a question asks for, in its own words where it names it: "modality", "lobe"."""
    for pattern, heading in _LABEL["headings"]:
        if re.search(pattern, question, re.IGNORECASE):
            return heading
    which = next((token for token in asked if token.lower_ in ("what", "which")), None)
    noun = which.head if which is not None else None
    if noun is None or noun.i <= which.i or noun.tag_ != "NN" or noun.lower_ in ("type", "kind", "image"):
        return None
    named = asked[which.i + 1 : noun.i + 1]
    return named.text.lower() if all(token.pos_ in ("NOUN", "ADJ", "PROPN") for token in named) else None


def _kind(plain: str, parse: Any) -> Kind:
    words, root, is_list = plain.split(), parse(f"{plain}.")[:].root, bool(re.search(r",|\band\b", plain))
    if re.match(r"[~<>]?\s*\d", plain) or plain in ("one", "two", "three", "four", "five", "both"):
        return "number" if len(words) <= 3 and not re.match(r"\d+(?:st|nd|rd|th)\b", plain) else "other"
    if _PATTERNS["place_word"].match(plain):
        return "place"
    if words[0] in ("not", "just", "almost", "none") or re.search(r"[;:\t]|\b(?:it|is|are|was|has)\b", plain):
        return "other"
    if len(words) == 1 and (plain != plain.lower() or re.fullmatch(r"[a-z]*\d[\w-]*", plain)):
        return "name"
    if words[-1] in _ORGANS | _COUNTABLE and not is_list:
        return "noun"
    is_short = len(words) <= 2 and is_adjective(words[-1]) and "," not in plain
    if words[0] in ("with", "without") or (root.pos_ == "ADJ" and len(words) == 1) or is_short:
        return "adjective"
    if root.pos_ not in ("NOUN", "PROPN") or ("," in plain and " and " not in plain):
        return "other"
    if root.tag_ in PLURAL_TAGS and not is_uncountable(root.lower_):
        return "plural"
    return "other" if root.conjuncts else "noun"


def _with_article(plain: str, question: str, parse: Any) -> str | None:
    """The noun phrase with its article, or None where the right one is not certain."""
    if re.match(r"(?:the|an?|this|these|some|no|all|both|one|two|three|\d)\b", plain):
        return plain
    document = parse(f"{plain}.")
    root, last = document[:].root, plain.split()[-1]
    if last not in _ORGANS | _COUNTABLE and (root.pos_ not in ("NOUN", "PROPN") or root.i > len(document) - 2):
        return None
    asked = _PATTERNS["asks_place"].search(question) or _PATTERNS["asks_organ"].search(question)
    is_finding = root.lower_ in _COUNTABLE or _PATTERNS["finding"].search(root.lower_)
    if last in _ORGANS or (asked and not is_finding):
        return plain if re.match(r"bilateral|multiple|diffuse|[a-z]?\d", plain) else f"the {plain}"
    if root.tag_ in PLURAL_TAGS and last not in _COUNTABLE:
        return plain
    return with_article(plain) if {root.lower_, last} & _COUNTABLE else plain if is_uncountable(root.lower_) else None
