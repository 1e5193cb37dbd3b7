# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rewordings of a short answer ("right lung", "axial", "yes"), as a sentence that fits its question.

An article is added only where it is certain: "the" for a place or an organ that was asked for, "a" or "an" before a
countable finding of :data:`COUNTABLE`, none before a plural, a name, or a noun that has a form without a plural.
Otherwise the label stays as it is after a heading ("Modality: CT").
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

from .english import PLURAL_TAGS, inflected, is_adjective, is_uncountable, lower_first, with_article


Kind = Literal["number", "place", "adjective", "plural", "name", "noun", "other"]
COUNTABLE = frozenset(
    "mass nodule lesion cyst tumor tumour fracture infarct abscess effusion hematoma hemorrhage catheter polyp stone "
    "pneumothorax hydropneumothorax stroke hernia injury biopsy clot tube device pacemaker aneurysm diverticulum "
    "opacity ulcer thrombus clip wire line bubble".split()
)
ORGANS = frozenset(
    "brain liver kidney lung heart spleen pancreas stomach colon bladder aorta bowel gallbladder cecum appendix "
    "trachea cerebellum cerebrum thalamus pons medulla spine sacrum hip rib femur diaphragm hemidiaphragm pelvis "
    "mediastinum abdomen chest head neck duodenum jejunum ileum rectum uterus prostate esophagus lobe ventricle "
    "artery vein muscle gland clavicle scapula humerus hilum side hemisphere cortex fossa".split()
)
_UNANSWERED = ("maybe", "not sure", "a bit")
_BE_OR_DO = r"is|are|does|do|was|were|has|have|had|can|could|did"
_POLAR = re.compile(rf"\s*(?:{_BE_OR_DO})\b", re.IGNORECASE)
_MANNER = re.compile(
    r"\s*(?:why|when|who|how(?! many| big| large| would you describe)|what (?:can|could|would|might))\b", re.IGNORECASE
)
_EXCEPTS = re.compile(r"\b(?:not|except|besides|other than)\b|n['’]t\b", re.IGNORECASE)
_ASKS_PLACE = re.compile(
    r"\bwhere\b|\blocation\b|\blocated(?: in| at)?\s*\??\s*$|\bwhich (?:side|lobe|lung|region|part|area|hemisphere)",
    re.IGNORECASE,
)
_FINDING = re.compile(r"(?:ensity|ing|ness|[ts]ion|ment|osis|itis|emia|edema)$")
_ASKS_ORGAN = re.compile(r"\b(?:organs?|structures?|bone|vessel|muscle|gland|landmark|anatom\w+)\b", re.IGNORECASE)
_PLACE_WORD = re.compile(
    r"(?:in|at|on|within|near|inside|between|above|below|behind|along|beneath|underneath|over|under|"
    r"(?:adjacent|next|posterior|anterior|lateral|medial|inferior|superior) to)\b"
)
_WHERE = re.compile(
    r"\s*where (is|are) (the [\w\s-]+?)(?: (?:located|situated|seen|found|present))?\s*\??\s*", re.IGNORECASE
)
_WHAT = re.compile(r"\s*what is (the [\w\s-]+?)(?<! of)(?<! in)(?<! to)\s*\??\s*", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"\b(?:plane|shape|density|intensity|size|view|colou?r|orientation|position)\b")
_HEADINGS = (
    (r"\bhow many\b", "number"),
    (r"\bmodalit|\btype of (?:imag|scan)|\bkind of (?:imag|scan)|\bimaging (?:technique|method)", "modality"),
    (r"\bplane\b", "plane"),
    (r"\bhow (?:big|large)\b|\bsize\b", "size"),
    (r"\bwhere\b|\blocation\b|\blocated(?: in| at)?\s*\??\s*$|\b(?:which|what) side\b", "location"),
)


def label_variants(label: str, question: str, parse: Any) -> list[str]:
    """Rewordings of a label, without its final mark; sentences before headings.

    Args:
        label: A short answer. It may hold atoms for boxes.
        question: Without boxes and tags.
        parse: The spaCy pipeline.
    """
    plain, asked = lower_first(label.strip().rstrip("."), label=True), parse(" ".join(question.split()))
    if not plain or label.rstrip().endswith("?") or plain in _UNANSWERED or plain.startswith("not "):
        return []
    if plain.lower() in ("yes", "no"):
        return list(_polar_variants(plain.lower(), asked))
    if _MANNER.match(question) or _EXCEPTS.search(question):
        is_clause = any(token.dep_ in ("nsubj", "mark") for token in parse(f"{plain}."))
        frames = ("the answer is", "the answer to the question is", "the answer given is")
        return [] if is_clause else [f"{frame} {plain}" for frame in frames]
    kind, noun = _kind(plain, parse), _with_article(plain, question, parse)
    heading = None if _POLAR.match(question) else _heading(question, asked)
    if heading == "location" and (kind == "other" or (noun and not noun.startswith("the "))):
        heading = None
    return [*_statements(plain, kind, noun, question), *_headed(plain, kind, heading)]


def _polar_variants(answer: str, question: Any) -> Iterator[str]:
    """Templates like "Is there a mass?", "Yes" -> "Yes, there is a mass."."""
    subjects = (t for t in question if t.dep_ in ("nsubj", "nsubjpass", "expl") and t.left_edge.i == 1)
    subject = next((token for token in subjects if token.head.i in (0, question[0].head.i)), None)
    verb, words = question[:1].text.lower(), {token.lower_ for token in question}
    if subject is not None and re.fullmatch(_BE_OR_DO, verb):
        who, rest = (
            lower_first(question[1 : subject.right_edge.i + 1].text),
            question[subject.right_edge.i + 1 : -1].text,
        )
        clear = (
            len(question) < 20 and not words & {"or", "any", "you", "either", "-", "/"} and question[-1].text == "?"
        )
        main = question[0].head
        if clear and rest and answer == "yes" and verb in ("does", "do") and main.i == subject.right_edge.i + 1:
            form = inflected(main.lemma_, "VBZ" if verb == "does" else "VBP")
            yield f"yes, {who} {form} {question[main.i + 1 : -1].text}"
        elif clear and rest and answer == "yes" and verb in ("is", "are", "was", "were", "has", "have", "can"):
            yield f"yes, {who} {verb} {rest}"
        elif clear and rest and answer == "no" and subject.dep_ == "expl":
            yield f"no, there {verb} no {re.sub(r'^an? ', '', rest)}"
        elif clear and rest and answer == "no" and verb in ("is", "are", "was", "were", "does", "do"):
            yield f"no, {who} {verb} not {rest}"
        if subject.dep_ == "expl":
            yield f"yes, there {verb}" if answer == "yes" else f"no, there {verb} not"
    yield "yes, that is the case" if answer == "yes" else "no, that is not the case"
    yield from (f"the answer is {answer}", f"the answer to the question is {answer}")


def _statements(plain: str, kind: Kind, noun: str | None, question: str) -> Iterator[str]:
    """Whole sentences; with the subject of "What is the plane?", "Where is the mass?"."""
    place = plain if kind == "place" else None
    is_place = noun is not None and noun.startswith("the ") and not re.search(r",|\band\b", plain)
    if kind in ("plural", "noun") and is_place and _ASKS_PLACE.search(question):
        place = f"{'on' if re.search(r'(?:side|surface)$', plain) else 'in'} {noun}"
    where, what = _WHERE.fullmatch(question), _WHAT.fullmatch(question)
    if where and place:
        yield f"{where[2]} {where[1].lower()} {place}"
    if place and not (where and where[1].lower() == "are"):
        yield from (f"it is {place}", f"it is located {place}")
    if place or re.match(r"\s*where\b", question, re.IGNORECASE):
        return
    if what and (kind in ("number", "name") or (kind == "adjective" and _ATTRIBUTE.search(what[1]))):
        yield f"{what[1]} is {plain}"
    elif what and noun and kind == "noun":
        yield f"{what[1]} is {noun}"
    if kind == "plural" and noun:
        yield from (f"these are {noun}", f"{noun} are seen")
    elif kind == "noun" and noun:
        yield from (f"this is {noun}", f"it is {noun}")
    elif kind in ("adjective", "name") and not re.search(r"\bare\b", question):
        yield f"it is {plain}"


def _headed(plain: str, kind: Kind, heading: str | None) -> Iterator[str]:
    """The label after a heading, which needs no article and no agreement."""
    if heading:
        yield f"{heading}: {plain}"
    if heading and kind in ("number", "adjective", "name") and heading != "location":
        yield f"the {heading} is {plain}"
    if kind in ("number", "adjective", "place"):
        yield from (f"the answer is {plain}", f"the answer to the question is {plain}")
    else:
        yield from (f"shown here: {plain}", f"seen in the image: {plain}", f"visible here: {plain}")


def _heading(question: str, asked: Any) -> str | None:
    """What a question asks for, in its own words where it names it: "modality", "lobe"."""
    for pattern, heading in _HEADINGS:
        if re.search(pattern, question, re.IGNORECASE):
            return heading
    which = next((token for token in asked if token.lower_ in ("what", "which")), None)
    noun = which.head if which is not None else None
    if noun is None or noun.i <= which.i or noun.tag_ != "NN" or noun.lower_ in ("type", "kind", "image"):
        return None
    named = asked[which.i + 1 : noun.i + 1]
    return named.text.lower() if all(token.pos_ in ("NOUN", "ADJ", "PROPN") for token in named) else None


def _kind(plain: str, parse: Any) -> Kind:
    words, root = plain.split(), parse(f"{plain}.")[:].root
    if re.match(r"[~<>]?\s*\d", plain) or plain in ("one", "two", "three", "four", "five", "both"):
        return "number" if len(words) <= 3 and not re.match(r"\d+(?:st|nd|rd|th)\b", plain) else "other"
    if _PLACE_WORD.match(plain):
        return "place"
    if words[0] in ("not", "just", "almost", "none") or re.search(r"[;:\t]|\b(?:it|is|are|was|has)\b", plain):
        return "other"
    if len(words) == 1 and (plain != plain.lower() or re.fullmatch(r"[a-z]*\d[\w-]*", plain)):
        return "name"
    if words[-1] in ORGANS | COUNTABLE and not re.search(r",|\band\b", plain):
        return "noun"
    if (
        words[0] in ("with", "without")
        or (root.pos_ == "ADJ" and len(words) == 1)
        or (len(words) <= 2 and is_adjective(words[-1]) and "," not in plain)
    ):
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
    root = document[:].root
    last = plain.split()[-1]
    if last not in ORGANS | COUNTABLE and (root.pos_ not in ("NOUN", "PROPN") or root.i > len(document) - 2):
        return None
    asked = _ASKS_PLACE.search(question) or _ASKS_ORGAN.search(question)
    if last in ORGANS or (asked and root.lower_ not in COUNTABLE and not _FINDING.search(root.lower_)):
        return plain if re.match(r"bilateral|multiple|diffuse|[a-z]?\d", plain) else f"the {plain}"
    if root.tag_ in PLURAL_TAGS and last not in COUNTABLE:
        return plain
    return with_article(plain) if {root.lower_, last} & COUNTABLE else plain if is_uncountable(root.lower_) else None
