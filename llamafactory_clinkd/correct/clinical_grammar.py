# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Relations between the terms of a parsed text: clauses, qualifiers, what is in what, what acts on what.

``keys`` maps the index of each token that is a term to the term's key (:class:`.clinical_text.Term`).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .clinical_wording import HOLDING, POSITIONS


QUALIFYING = ("amod", "compound", "nummod", "poss", "nmod")
_COORDINATED = ("conj", "appos")
_CLAUSES = ("conj", "advcl", "ccomp", "parataxis")
_SUBJECTS = frozenset(("nsubj", "nsubjpass", "expl"))
Action = tuple[str, frozenset[str], frozenset[str]]
"""Verb, what acts and what is acted upon."""
_SEPARATING = frozenset((",", "than", "compared", "while", "but"))


def has_subject(token: Any) -> bool:
    """Whether the parse gives the token a subject."""
    return any(child.dep_ in _SUBJECTS for child in token.children)


def is_sentence(document: Any) -> bool:
    """Whether a text has an auxiliary verb, or a verb with a subject and something else."""
    return any(
        token.pos_ == "AUX"
        or (token.tag_[:2] == "VB" and has_subject(token) and len({c.dep_ for c in token.children} - {"punct"}) > 1)
        for token in document
    )


def clause_starts(document: Any) -> set[int]:
    """Where a sentence, or a clause with a subject of its own, begins."""
    clauses = {token.left_edge.i for token in document if token.dep_ in _CLAUSES and has_subject(token)}
    marks = {token.i for token in document if token.text in (";", ":")}
    return clauses | marks | {sentence.start for sentence in document.sents}


def segments(document: Any) -> list[int]:
    """The number of each token's segment: clauses are divided at commas, comparisons and coordinations of nouns."""
    starts = clause_starts(document)
    for token in document:
        joined = [child for child in token.head.children if child.dep_ == "conj" and child.i > token.i]
        joins_nouns = token.dep_ == "cc" and not (joined and joined[0].pos_ in ("ADJ", "ADV", "NUM"))
        if token.lower_ in _SEPARATING or joins_nouns:
            starts.add(token.i)
    return [sum(start <= token.i for start in starts) for token in document]


def _head(token: Any) -> Any:
    """The token that a token depends on; that of the first of coordinated ones."""
    while token.dep_ in _COORDINATED and token.head.i != token.i:
        token = token.head
    return None if token.head.i == token.i or token.dep_ in _CLAUSES else token.head


def neighbours(
    document: Any, term: int, keys: Mapping[int, str], nouns: Collection[int], leads: bool
) -> frozenset[str]:
    """The keys of the nouns that the parse relates to a term, directly or through words that are no terms.

    They are the nearest ones; for a leading noun, all those that no verb separates from it.
    """
    seen, level, reached = {term}, [term], set()
    while level and (leads or not reached):
        following = {i for index in level for i in _linked(document[index])} - seen
        seen |= following
        reached |= following & nouns
        if leads:
            level = [i for i in following if i not in keys and document[i].pos_ not in ("VERB", "AUX")]
        else:
            level = [i for i in following if i not in nouns]
    if document[term].dep_ in QUALIFYING and keys[term] in POSITIONS:
        # "left lung mass": the parse gives "left" to "mass".
        head = document[term].head
        reached |= {i for i in nouns if term < i < head.i and document[i].head == head}
    return frozenset(keys[i] for i in reached)


def _linked(token: Any) -> list[int]:
    """The head and the dependents of a token, where coordinated tokens have the head of the first one."""
    links = [] if (head := _head(token)) is None else [head.i]
    for child in token.children:
        if child.dep_ not in (*_COORDINATED, *_CLAUSES, "punct"):
            links += [child.i, *(each.i for each in child.conjuncts if each.i > child.i)]
    return links


def qualifiers(token: Any, keys: Mapping[int, str]) -> frozenset[str]:
    """The keys of the words that qualify a noun directly."""
    found = [each.i for child in token.children if child.dep_ in QUALIFYING for each in (child, *child.conjuncts)]
    return frozenset(keys[i] for i in found if i in keys and i != token.i)


def _with_coordinated(tokens: Iterable[Any], keys: Mapping[int, str]) -> frozenset[str]:
    """The keys of tokens and of those coordinated with them; where a key occurs twice, those of its qualifiers."""
    found = [each for token in tokens for each in (token, *token.conjuncts) if each.i >= token.i]
    repeated = Counter(keys.values())
    return frozenset().union(
        *(qualifiers(t, keys) if repeated[keys[t.i]] > 1 else {keys[t.i]} for t in found if t.i in keys)
    )


def targets(document: Any, keys: Mapping[int, str]) -> frozenset[str]:
    """The keys of the objects of prepositions, and of X in "X has Y"."""
    objects = [t for t in document if t.dep_ == "pobj" and t.head.lower_ not in ("with", "without", "of")]
    for token in document:
        if token.lemma_.lower() in HOLDING and any(child.dep_ == "dobj" for child in token.children):
            objects += [child for child in token.children if child.dep_ == "nsubj"]
    return _with_coordinated(objects, keys)


def parts(document: Any, keys: Mapping[int, str]) -> frozenset[tuple[str, str]]:
    """(X, Y) of "X of Y"."""
    objects = [token for token in document if token.dep_ == "pobj" and token.head.lower_ == "of"]
    return frozenset((keys[o.head.head.i], keys[o.i]) for o in objects if o.i in keys and o.head.head.i in keys)


def actions(document: Any, keys: Mapping[int, str]) -> tuple[Action, ...]:
    """What each verb's subjects and objects are in the active voice."""
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
