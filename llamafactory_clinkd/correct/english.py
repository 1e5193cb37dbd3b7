# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""English for the offline corrector: inflections and articles by libraries, and words that stand for one another.

Each group of words in ``rewording_rules.toml`` has a condition on spaCy's parse, so that a fixed phrase ("multiple
sclerosis", "within normal limits", "region of interest") keeps its words.
"""

import functools
import importlib
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.patching import patch_attr
from ..utils.spacy_english import require_english


RULES = tomllib.loads(Path(__file__).with_name("rewording_rules.toml").read_text(encoding="utf-8"))
PLURAL_TAGS = ("NNS", "NNPS")
_ENGLISH = RULES["english"]
_KEEPS_CAPITAL, _FUNCTION_WORDS = (frozenset(_ENGLISH[kind].split()) for kind in ("names", "function_words"))


def check_parser() -> None:
    """Raises the ImportError of the first library that rewording lacks; loads none."""
    for library in ("lemminflect", "inflect"):
        if importlib.util.find_spec(library) is None:
            fix = "pip install 'llamafactory-clinkd[correct]', or set `corrector: openai`"
            raise ImportError(f"The offline corrector needs {library}: {fix}.")
    require_english()


def _lemminflect() -> Any:
    return importlib.import_module("lemminflect")


@functools.cache
def inflected(lemma: str, tag: str) -> str:
    """A verb's or noun's form of a Penn tag: ``("show", "VBN")`` is "shown"."""
    forms = _lemminflect().getInflection(lemma, tag=tag)
    return forms[-1] if tag == "VBN" and "shown" in forms else forms[0]


@functools.cache
def _inflect_engine() -> Any:
    """Inflect, without the compilation of a check of types into its methods, which takes two seconds at each start."""
    if importlib.util.find_spec("typeguard") is None:  # another version of inflect
        return importlib.import_module("inflect").engine()
    with patch_attr(importlib.import_module("typeguard"), "typechecked", lambda checked: checked):
        return importlib.import_module("inflect").engine()


def with_article(phrase: str) -> str:
    """The phrase after "a" or "an"."""
    return _inflect_engine().a(phrase)


@functools.cache
def is_adjective(word: str) -> bool:
    """Whether a lower-case word is an adjective, and no noun."""
    lemmas = _lemminflect().getAllLemmas(word)
    return ("ADJ" in lemmas and "NOUN" not in lemmas) or bool(re.search(_ENGLISH["adjective"], word))


@functools.cache
def is_uncountable(noun: str) -> bool:
    """Whether a lower-case noun can stand without an article: by a plural that equals it, or by its ending."""
    plurals = _lemminflect().getAllInflections(noun, upos="NOUN").get("NNS", ())
    return bool(re.search(_ENGLISH["uncountable"], noun)) or noun in plurals


@functools.cache
def is_singular(noun: str) -> bool:
    """Whether a lower-case noun is certainly its own base form."""
    return noun in _lemminflect().getAllLemmas(noun).get("NOUN", ())


def lower_first(text: str, *, label: bool = False) -> str:
    """Lower-cases the first letter of a word that a sentence began with; names and abbreviations keep theirs.

    ``label`` means that the text is a short answer, whose first letter says little: only known names keep it.
    """
    word = re.match(r"[^\W\d_]+(?:['’]s|-[A-Z])?", text)
    if not word or word[0] == "I" or word[0][1:] != word[0][1:].lower() or (len(word[0]) == 1 and word[0] != "A"):
        return text
    lower = word[0].lower()
    if lower.endswith(("'s", "’s")) or lower in _KEEPS_CAPITAL:
        return text
    is_common = label or lower in _FUNCTION_WORDS or _lemminflect().getAllLemmas(lower)
    return text[0].lower() + text[1:] if is_common or re.search(_ENGLISH["common_ending"], lower) else text


def upper_first(text: str) -> str:
    """Upper-cases the first letter."""
    return text[:1].upper() + text[1:]


class Choice(NamedTuple):
    """Tokens ``start`` to ``end`` of a document may be replaced by one of ``others``."""

    start: int
    end: int
    others: tuple[str, ...]


def word_choices(doc: Any) -> list[Choice]:
    """The choices in a parsed text, left to right without overlap."""
    found = sorted([*_phrase_choices(doc), *_verb_choices(doc)], key=lambda choice: (choice.start, -choice.end))
    return [each for number, each in enumerate(found) if all(other.end <= each.start for other in found[:number])]


def _is_described(span: Any, before: Any, after: Any) -> bool:
    """A noun after an article or an adjective, and no part of a compound ("region of interest", "surface area")."""
    fixed = span.doc[span.end : span.end + 2].text.lower() == "of interest" or span[0].dep_ in ("compound", "nmod")
    described = before is not None and before.tag_ in ("DT", "JJ", "CD") and before.lower_ not in ("bare", "last")
    return described and not fixed


_CONDITIONS = {  # by name, on the words and the tokens before and after them
    "anywhere": lambda span, before, after: True,
    "opening": lambda span, before, after: span[0].is_sent_start and after is not None and after.text == ",",
    "not_after_be": lambda span, before, after: before is not None and before.lemma_ != "be",
    "described": _is_described,
    "participle": lambda span, before, after: span[0].tag_ == "VBN" and (after is None or after.lower_ != "as"),
    "adverb": lambda span, before, after: span[0].pos_ == "ADV" and before is not None and before.pos_ != "ADV",
    "verb": lambda span, before, after: span[0].pos_ == "VERB" and span[-1].tag_ in ("IN", "TO"),
    "clause": lambda span, before, after: span[0].tag_ == "VBN" and span[0].dep_ == "acl",
    "after_comma": lambda span, before, after: span.start > 1 and before.text == ",",
    "subject": lambda span, b, after: span[0].is_sent_start and after is not None and after.tag_ in ("VBZ", "MD"),
}
_GROUPS = [
    (re.compile(rf"(?<![\w-])(?:{replaced.replace(' = ', '|')})(?![\w-])", re.IGNORECASE), group, rule["when"].split())
    for rule in RULES["choices"]
    for group in " ".join(rule["words"].split()).split("; ")
    for replaced in [group.split(" > ")[0]]
]


def _phrase_choices(doc: Any) -> Iterator[Choice]:
    for pattern, group, (kind, *values) in _GROUPS:
        for match in pattern.finditer(doc.text):
            span = doc.char_span(match.start(), match.end())
            if span is None:
                continue
            before = doc[span.start - 1] if span.start else None
            after = doc[span.end] if span.end < len(doc) else None
            if kind in _CONDITIONS:
                applies = _CONDITIONS[kind](span, before, after)
            else:
                found = {"before": after and after.tag_, "tag": span[0].tag_, "dep": span[0].dep_}
                applies = found[kind] in values
            if applies:
                others = [other for other in re.split(" [=>] ", group) if other != match[0].lower()]
                yield _choice(doc, span.start, span.end, others)


def _verb_choices(doc: Any) -> Iterator[Choice]:
    for token in doc:
        if token.pos_ != "VERB" or token.lemma_ not in RULES["verbs"] or token.nbor(-1 if token.i else 0).text == "-":
            continue
        children = {child.dep_ for child in token.children}
        used = token.lemma_ in ("use", "utilize", "evaluate", "assess")
        passive = token.tag_ == "VBN" and "auxpass" in children and used
        active = "dobj" in children and token.tag_ in ("VB", "VBZ", "VBP", "VBG") and token.lemma_ != "use"
        active = active or (token.tag_ == "VBD" and {"dobj", "nsubj"} <= children)
        if passive or (active and not children & {"ccomp", "xcomp", "dative", "prt", "dep"}):
            lemmas = RULES["verbs"][token.lemma_].split()
            yield _choice(doc, token.i, token.i + 1, [inflected(lemma, token.tag_) for lemma in lemmas])


def _choice(doc: Any, start: int, end: int, others: list[str]) -> Choice:
    """A choice whose words have the capital of the replaced ones, and the article before them its form."""
    if start and doc[start - 1].lower_ in ("a", "an"):
        article = doc[start - 1].text
        forms = [with_article(other) for other in others if not other.startswith("a ")]
        return Choice(start - 1, end, tuple(article[0] + form[1:] for form in forms))
    return Choice(start, end, tuple(map(upper_first, others) if doc[start].text[0].isupper() else others))
