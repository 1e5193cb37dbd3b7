# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a radiology text states: its terms, each with its negation, and how they are related.

spaCy parses the text; negspacy's NegEx (Chapman et al., 2001) decides within each clause which terms are negated.
Words that only report ("there is", "the image shows") are no terms.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..utils.spacy_english import load_english
from .clinical_wording import HOLDING, MEASURES, NEGATIONS, POSITIONS, REPORTING, SAME, WEAK, plain_wording
from .quantities import UNITS
from .wordnet import is_body_part, is_known


_SKIPPED_POS = frozenset(("PUNCT", "SPACE", "PRON", "PART", "CCONJ", "SCONJ"))
_QUALIFYING = ("amod", "compound", "nummod", "poss", "nmod")
_COORDINATED = ("conj", "appos")
_CLAUSES = ("conj", "advcl", "ccomp", "parataxis")
_NEGATING_PAIRS = {("free", "of"), ("negative", "for")}
_SUBJECTS = {"nsubj", "nsubjpass", "expl"}
_DIRECTIONS = frozenset("to from toward towards into".split())
_UNCHANGED = frozenset("lower upper inner outer left".split())


@dataclass(frozen=True)
class Term:
    """A word that states something."""

    key: str
    """Its base form; synonyms of fixed lists have one form."""
    text: str
    noun: bool
    leads: bool
    """Whether it is a noun that qualifies no other."""
    plural: bool
    form: str
    """``er`` and ``est`` of an adjective or adverb, ``ing`` or ``ed`` of a participle ("ed" without an agent), else empty."""
    negated: bool
    place: bool
    """A part of the body, or the position or side of one: "no effusion in the left lung" negates no lung."""
    optional: bool
    """"one" before a noun, which an article replaces, and "size" beside a unit."""
    neighbours: frozenset[str] = frozenset()
    """Keys of the nearest nouns in the parse; of a leading noun, of all nouns that no verb separates from it."""
    qualifiers: frozenset[str] = frozenset()
    """Keys of the words that qualify a noun directly."""
    segment: int = 0
    """The part of the sentence that it is in, between commas, conjunctions and clauses."""


@dataclass(frozen=True)
class Statement:
    """What a text states."""

    answer: str
    """"yes" or "no" at its beginning, else empty."""
    terms: tuple[Term, ...]
    negations: tuple[int, ...]
    """The segment of each word that negates."""
    alternatives: bool
    """Whether it has "or" or "nor"."""
    directed: bool
    """Whether it has "from" or "to", so that the order of two sides or numbers counts."""
    has_verb: bool
    past: bool
    """Whether a finite verb is in the past tense."""
    targets: frozenset[str]
    """Keys of the nouns in which, above which, ... something is: objects of prepositions, and X in "X has Y"."""
    parts: frozenset[tuple[str, str]]
    """(X, Y) of "X of Y"."""
    actions: tuple[tuple[str, frozenset[str], frozenset[str]], ...]
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
    documents = list(_pipeline().pipe([text for _, text in prepared], batch_size=256))
    phrases = [index for index, document in enumerate(documents) if not _is_sentence(document)]
    frames = ("there is the" if documents[index].text.startswith("left") else "there is" for index in phrases)
    framed = [f"{frame} {documents[index].text}" for frame, index in zip(frames, phrases, strict=True)]
    for index, document in zip(phrases, _pipeline().pipe(framed, batch_size=256), strict=True):
        documents[index] = document
    is_phrase = set(phrases)
    return [
        _statement(answer, document, has_verb=index not in is_phrase)
        for index, ((answer, _), document) in enumerate(zip(prepared, documents, strict=True))
    ]


@lru_cache(maxsize=32768)
def read_statement(text: str) -> Statement:
    """Reads one text."""
    return read_statements([text])[0]


def _is_sentence(document: Any) -> bool:
    for token in document:
        children = {child.dep_ for child in token.children}
        if token.pos_ == "AUX" or (
            token.tag_[:2] == "VB" and children & {"nsubj", "nsubjpass", "expl"} and len(children - {"punct"}) > 1
        ):
            return True
    return False


@lru_cache(maxsize=1)
def _pipeline() -> Any:
    return load_english()


@lru_cache(maxsize=1)
def _negex() -> Any:
    """NegEx, which regards each clause on its own.

    Its "pseudo-negations" negate here too ("no change"): the rewording has to negate the same words.
    """
    from negspacy.negation import Negex
    from negspacy.termsets import termset

    class ClauseNegex(Negex):
        def termination_boundaries(self, doc: Any, terminating: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
            starts = {0, len(doc), *(sent.start for sent in doc.sents), *(start for _, start, _ in terminating)}
            starts = sorted(starts.union(_clause_starts(doc)))
            return list(zip(starts, starts[1:], strict=False))

    terms = termset("en_clinical")
    patterns = {name: list(values) for name, values in terms.get_patterns().items()}
    patterns["pseudo_negations"] = ["gram negative", "not only"]
    patterns["preceding_negations"] = [
        *(cue for cue in patterns["preceding_negations"] if cue not in ("versus", "symptoms atypical", "evaluate for")),
        "neither", "nor", "none of", "lack of", "lacks", "n't", "absent",
    ]  # fmt: skip
    patterns["following_negations"].remove("free")  # "free fluid"
    patterns["following_negations"] += ["absent", "is not", "are not", "has not", "have not", "not seen"]
    return ClauseNegex(_pipeline(), "negex", patterns, extension_name="is_negated", span_keys=["terms"])


def _clause_starts(document: Any) -> list[int]:
    """Where a clause with a subject of its own begins."""
    starts = []
    for token in document:
        subject = any(child.dep_ in ("nsubj", "nsubjpass", "expl") for child in token.children)
        if token.dep_ in _CLAUSES and subject:
            starts.append(token.left_edge.i)
        if token.text in (";", ":"):
            starts.append(token.i)
    return starts


def _statement(answer: str, document: Any, has_verb: bool) -> Statement:
    tokens = [token for token in document if _is_term(token)]
    document.spans["terms"] = [document[token.i : token.i + 1] for token in tokens]
    negated = [span._.is_negated for span in _negex()(document).spans["terms"]]
    places = {token.i for token in tokens if _is_place(token)}
    segments = _segments(document)
    keys = {token.i: _key(token) for token in tokens}
    nouns = {t.i for t in tokens if t.pos_ in ("NOUN", "PROPN") and keys[t.i] not in MEASURES}
    leading = {i for i in nouns if document[i].dep_ not in _QUALIFYING}
    neighbours = {i: _neighbours(document, i, keys, nouns, leading) for i in keys}
    terms = tuple(
        Term(
            keys[token.i], token.text, token.i in nouns, token.i in leading, _is_plural(token, keys[token.i]), _form(token), is_negated,
            token.i in places, _is_optional(token, keys[token.i]),
            frozenset(keys[i] for i in neighbours[token.i]), _qualifiers(token, keys), segments[token.i],
        )
        for token, is_negated in zip(tokens, negated, strict=True)
    )  # fmt: skip
    return Statement(
        answer, terms, tuple(segments[t.i] for t in document if _negates(t)),
        any(token.lower_ in ("or", "nor") for token in document),
        any(token.lower_ in _DIRECTIONS for token in document),
        has_verb,
        any(t.tag_ == "VBD" and (t.pos_ == "AUX" or any(c.dep_ in ("nsubj", "expl") for c in t.children)) for t in document),
        _targets(document, keys), _parts(document, keys), _actions(document, keys),
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
    return token.lower_ == f"{key}s" and not any(child.dep_ in ("nsubj", "nsubjpass") for child in token.children)


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


def _segments(document: Any) -> list[int]:
    """The number of each token's segment."""
    starts = set(_clause_starts(document)) | {sentence.start for sentence in document.sents}
    for token in document:
        joined = [child for child in token.head.children if child.dep_ == "conj" and child.i > token.i]
        joins_qualities = token.dep_ == "cc" and joined and joined[0].pos_ in ("ADJ", "ADV", "NUM")
        if (
            token.text == ","
            or token.lower_ in ("than", "compared", "while", "but")
            or (token.dep_ == "cc" and not joins_qualities)
        ):
            starts.add(token.i)
    numbers, number = [], 0
    for token in document:
        number += token.i in starts
        numbers.append(number)
    return numbers


def _head(token: Any) -> Any:
    """The token that a token depends on; that of the first of coordinated ones."""
    while token.dep_ in _COORDINATED and token.head.i != token.i:
        token = token.head
    return None if token.head.i == token.i or token.dep_ in _CLAUSES else token.head


def _neighbours(
    document: Any, term: int, terms: Mapping[int, str], nouns: Collection[int], leading: Collection[int]
) -> set[int]:
    """The nouns that the parse relates to a term, directly or through words that are no terms: see :class:`Term`."""
    seen, level, reached = {term}, [term], set()
    while level and not (reached and term not in leading):
        following = {i for index in level for i in _linked(document[index])} - seen
        seen |= following
        reached |= following & nouns
        passes = (i for i in following if i not in terms)
        level = [i for i in passes if term not in leading or document[i].pos_ not in ("VERB", "AUX")]
        level += [i for i in following if i in terms and i not in nouns and term not in leading]
    if (
        document[term].dep_ in _QUALIFYING and terms[term] in POSITIONS
    ):  # "left lung mass": the parse gives "left" to "mass"
        reached |= {
            i for i in nouns if i > term and document[i].head == document[term].head and i < document[i].head.i
        }
    return reached


def _linked(token: Any) -> list[int]:
    """The head and the dependents of a token, where coordinated tokens have the head of the first one."""
    links = [] if (head := _head(token)) is None else [head.i]
    for child in token.children:
        if child.dep_ not in (*_COORDINATED, *_CLAUSES, "punct"):
            links += [child.i, *(each.i for each in child.conjuncts if each.i > child.i)]
    return links


def _qualifiers(token: Any, keys: Mapping[int, str]) -> frozenset[str]:
    found = [each.i for child in token.children if child.dep_ in _QUALIFYING for each in (child, *child.conjuncts)]
    return frozenset(keys[i] for i in found if i in keys and i != token.i)


def _with_coordinated(tokens: Iterable[Any], keys: dict[int, str]) -> frozenset[str]:
    """The keys of tokens and of those coordinated with them; where a key occurs twice, those of its qualifiers."""
    found = [each for token in tokens for each in (token, *token.conjuncts) if each.i >= token.i]
    repeated = Counter(keys.values())
    return frozenset().union(
        *(_qualifiers(t, keys) if repeated[keys[t.i]] > 1 else {keys[t.i]} for t in found if t.i in keys)
    )


def _targets(document: Any, keys: dict[int, str]) -> frozenset[str]:
    objects = [t for t in document if t.dep_ == "pobj" and t.head.lower_ not in ("with", "without", "of")]
    for token in document:
        if token.lemma_.lower() in HOLDING and any(child.dep_ == "dobj" for child in token.children):
            objects += [child for child in token.children if child.dep_ == "nsubj"]
    return _with_coordinated(objects, keys)


def _parts(document: Any, keys: dict[int, str]) -> frozenset[tuple[str, str]]:
    objects = [token for token in document if token.dep_ == "pobj" and token.head.lower_ == "of"]
    return frozenset((keys[o.head.head.i], keys[o.i]) for o in objects if o.i in keys and o.head.head.i in keys)


def _actions(document: Any, keys: dict[int, str]) -> tuple[tuple[str, frozenset[str], frozenset[str]], ...]:
    found = []
    for verb in document:
        if verb.pos_ != "VERB" or verb.i not in keys:
            continue
        children = list(verb.children)
        agents = [noun for child in children if child.dep_ == "agent" for noun in child.children]
        subjects = [child for child in children if child.dep_ == "nsubj"] + agents
        objects = [child for child in children if child.dep_ in ("dobj", "nsubjpass")]
        if verb.dep_ in ("acl", "relcl"):
            (objects if verb.tag_ == "VBN" else subjects).append(verb.head)
        if subjects or objects:
            found.append((keys[verb.i], _with_coordinated(subjects, keys), _with_coordinated(objects, keys)))
    return tuple(found)
