# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a radiology text states: its terms, each with its negation, and how they are related.

spaCy parses the text; negspacy's NegEx (Chapman et al., 2001) decides within each clause which terms are negated.
Words that only report ("there is", "the image shows") are no terms.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..utils.spacy_english import load_english
from . import clinical_grammar as grammar
from .clinical_wording import MEASURES, NEGATIONS, NEGEX, POSITIONS, REPORTING, SAME, UNITS, WEAK, plain_wording
from .wordnet import is_body_part, is_known


_SKIPPED_POS = frozenset(("PUNCT", "SPACE", "PRON", "PART", "CCONJ", "SCONJ"))
_NEGATING_PAIRS = {("free", "of"), ("negative", "for")}
_DIRECTIONS = frozenset("to from toward towards into".split())
_REPORTS = re.compile(r"(?:shown|seen|visible)\b", re.IGNORECASE)
_UNCHANGED = frozenset("lower upper inner outer left".split())


@dataclass(frozen=True)
class Term:
    """A word that states something."""

    key: str  # its base form; synonyms of fixed lists have one form
    text: str
    noun: bool
    leads: bool  # whether it is a noun that qualifies no other
    plural: bool
    form: str
    """``er``, ``est`` of an adjective or adverb, ``ing``, ``ed`` (without an agent) of a participle, else empty."""
    negated: bool
    place: bool  # a part of the body, or the position or side of one: "no effusion in the left lung" negates no lung
    optional: bool  # "one" before a noun, which an article replaces, and "size" beside a unit
    neighbours: frozenset[str] = frozenset()
    """Keys of the nearest nouns in the parse; of a leading noun, of all nouns that no verb separates from it."""
    qualifiers: frozenset[str] = frozenset()  # keys of the words that qualify a noun directly
    segment: int = 0  # the part of the sentence that it is in, between commas, conjunctions and clauses


@dataclass(frozen=True)
class Statement:
    """What a text states."""

    answer: str  # "yes" or "no" at its beginning, else empty
    terms: tuple[Term, ...]
    negations: tuple[int, ...]  # the segment of each word that negates
    alternatives: bool  # whether it has "or" or "nor"
    directed: bool  # whether it has "from" or "to", so that the order of two sides or numbers counts
    has_verb: bool  # or a participle that reports: "seen here"
    past: bool  # whether a finite verb is in the past tense
    targets: frozenset[str]
    """Keys of the nouns in which, above which, ... something is: objects of prepositions, and X in "X has Y"."""
    parts: frozenset[tuple[str, str]]  # (X, Y) of "X of Y"
    actions: tuple[grammar.Action, ...]
    """Verb, what acts and what is acted upon, in the active and in the passive voice."""

    @property
    def keys(self) -> frozenset[str]:
        """The keys of its terms."""
        return frozenset(term.key for term in self.terms)


def read_statements(texts: Iterable[str]) -> list[Statement]:
    """Reads texts, in batches; boxes and tags are ignored.

    A phrase without a verb is parsed again after "there is": alone, "kidney cysts" would be a subject and a verb.
    """
    prepared = [plain_wording(text) for text in texts]
    documents = list(load_english().pipe([text for _, text in prepared], batch_size=256))
    phrases = [index for index, document in enumerate(documents) if not grammar.is_sentence(document)]
    frames = ("there is the" if documents[index].text.startswith("left") else "there is" for index in phrases)
    framed = [f"{frame} {documents[index].text}" for frame, index in zip(frames, phrases, strict=True)]
    for index, document in zip(phrases, load_english().pipe(framed, batch_size=256), strict=True):
        documents[index] = document
    is_phrase = set(phrases)
    return [
        _statement(answer, document, has_verb=index not in is_phrase or bool(_REPORTS.match(text)))
        for index, ((answer, text), document) in enumerate(zip(prepared, documents, strict=True))
    ]


@lru_cache(maxsize=16384)
def read_statement(text: str) -> Statement:
    """Reads one text."""
    return read_statements([text])[0]


@lru_cache(maxsize=1)
def _negex() -> Any:
    """NegEx, which regards each clause on its own.

    Its "pseudo-negations" negate here too ("no change"): the rewording has to negate the same words.
    """
    from negspacy.negation import Negex
    from negspacy.termsets import termset

    class ClauseNegex(Negex):
        def termination_boundaries(self, doc: Any, terminating: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
            starts = sorted({0, len(doc), *grammar.clause_starts(doc), *(start for _, start, _ in terminating)})
            return list(zip(starts, starts[1:], strict=False))

    patterns = {
        name: sorted({*values, *NEGEX[name]["added"]} - {*NEGEX[name]["removed"]}) if name in NEGEX else list(values)
        for name, values in termset("en_clinical").get_patterns().items()
    }
    patterns["pseudo_negations"] = NEGEX["pseudo_negations"]["only"]
    return ClauseNegex(load_english(), "negex", patterns, extension_name="is_negated", span_keys=["terms"])


def _statement(answer: str, document: Any, has_verb: bool) -> Statement:
    tokens = [token for token in document if _is_term(token)]
    document.spans["terms"] = [document[token.i : token.i + 1] for token in tokens]
    negated = [span._.is_negated for span in _negex()(document).spans["terms"]]
    segments, keys = grammar.segments(document), {token.i: _key(token) for token in tokens}
    nouns = {t.i for t in tokens if t.pos_ in ("NOUN", "PROPN") and keys[t.i] not in MEASURES}
    leading = {i for i in nouns if document[i].dep_ not in grammar.QUALIFYING}
    terms = [
        Term(
            key=keys[token.i], text=token.text, noun=token.i in nouns, leads=token.i in leading,
            plural=_is_plural(token, keys[token.i]), form=_form(token), negated=is_negated, place=_is_place(token),
            optional=_is_optional(token, keys[token.i]),
            neighbours=grammar.neighbours(document, token.i, keys, nouns, token.i in leading),
            qualifiers=grammar.qualifiers(token, keys), segment=segments[token.i],
        )
        for token, is_negated in zip(tokens, negated, strict=True)
    ]  # fmt: skip
    words = {token.lower_ for token in document}
    past = (t for t in document if t.tag_ == "VBD")
    return Statement(
        answer=answer, terms=tuple(terms), negations=tuple(segments[t.i] for t in document if _negates(t)),
        alternatives=bool(words & {"or", "nor"}), directed=bool(words & _DIRECTIONS), has_verb=has_verb,
        past=any(token.pos_ == "AUX" or grammar.has_subject(token) for token in past),
        targets=grammar.targets(document, keys), parts=grammar.parts(document, keys),
        actions=grammar.actions(document, keys),
    )  # fmt: skip


def _is_term(token: Any) -> bool:
    if token.lower_ == "or":
        return not any(_negates(other) for other in token.doc[: token.i])  # "no A or B" is "no A and no B"
    if _negates(token) or token.pos_ in _SKIPPED_POS or not any(map(str.isalnum, token.text)):
        return False
    return not {token.lower_, token.lemma_.lower()} & (REPORTING | WEAK | UNITS)


def _negates(token: Any) -> bool:
    following = token.nbor().lower_ if token.i + 1 < len(token.doc) else ""
    return bool({token.lower_, token.lemma_} & NEGATIONS) or (token.lower_, following) in _NEGATING_PAIRS


def _key(token: Any) -> str:
    if token.i + 1 < len(token.doc) and token.nbor().text in UNITS:
        return f"{token.lower_} {token.nbor().text}"
    lemma = token.lemma_.lower()
    word = token.lower_ if token.lower_ in _UNCHANGED or (is_known(token.lower_) and not is_known(lemma)) else lemma
    word = SAME.get(token.lower_, SAME.get(word, word))
    modern = re.sub("oe|ae", "e", word)
    return modern if len(word) > 5 and modern != word and (is_known(modern) or not is_known(word)) else word


def _is_plural(token: Any, key: str) -> bool:
    if token.pos_ in ("NOUN", "PROPN"):
        return token.tag_ in ("NNS", "NNPS") and token.lower_ != key
    return token.lower_ == f"{key}s" and not grammar.has_subject(token)


def _is_place(token: Any) -> bool:
    if token.pos_ in ("NOUN", "PROPN"):
        return is_body_part(_key(token))
    return _key(token) in POSITIONS


def _is_optional(token: Any, key: str) -> bool:
    if key == "size":
        return any(other.text in UNITS for other in token.doc)
    return key == "1" and token.i < token.head.i and token.dep_ in ("nummod", "amod")


def _form(token: Any) -> str:
    if token.lower_ in _UNCHANGED:
        return ""
    if token.tag_ in ("JJR", "RBR", "JJS", "RBS"):
        return "er" if token.tag_.endswith("R") else "est"
    if token.tag_ == "VBN" or (token.pos_ == "ADJ" and token.lower_.endswith("ed")):
        return "" if any(child.dep_ == "agent" for child in token.children) else "ed"
    return "ing" if token.lower_.endswith("ing") and token.pos_ in ("VERB", "ADJ") else ""
