# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Words and phrases that can stand for one another in a parsed sentence, without a change of grammar or meaning.

Each group of :data:`GROUPS` has a condition on the parse, so that a fixed phrase ("multiple sclerosis", "within normal
limits", "region of interest") keeps its words: no group has a word of it, or its condition excludes it.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .english import inflected, with_article


class Choice(NamedTuple):
    """Tokens ``start`` to ``end`` of a document may be replaced by one of ``others``."""

    start: int
    end: int
    others: tuple[str, ...]


def _before(*tags: str) -> Callable[[Any], bool]:
    return lambda span: span.end < len(span.doc) and span.doc[span.end].tag_ in tags


def _opens(span: Any) -> bool:
    return span[0].is_sent_start and span.end < len(span.doc) and span.doc[span.end].text == ","


def _not_after_be(span: Any) -> bool:
    return span.start > 0 and span.doc[span.start - 1].lemma_ != "be"


def _is_described(span: Any) -> bool:
    """A noun after an article or an adjective, and no part of a compound ("region of interest", "surface area")."""
    before = span.doc[span.start - 1] if span.start else None
    fixed = span.doc[span.end : span.end + 2].text.lower() == "of interest" or span[0].dep_ in ("compound", "nmod")
    return (
        before is not None
        and before.tag_ in ("DT", "JJ", "CD")
        and before.lower_ not in ("bare", "last")
        and not fixed
    )


def _after_comma(span: Any) -> bool:
    return span.start > 1 and span.doc[span.start - 1].text == ","


def _is_verb(span: Any) -> bool:
    return span[0].pos_ == "VERB" and span.doc[span.end - 1].tag_ in ("IN", "TO")


def _precedes(span: Any, word: str) -> bool:
    return span.end < len(span.doc) and span.doc[span.end].lower_ == word


def _anywhere(span: Any) -> bool:
    return True


_INFINITIVE = _before("VB")
_PLACE = _before("IN")
GROUPS: tuple[tuple[str, Callable[[Any], bool]], ...] = (  # a = b: either for the other; a > b: only b for a
    (
        "for example = for instance; mainly = primarily; particularly = especially; compared to = compared with; "
        "adjacent to = next to; caused by = brought about by; associated with = linked to; appears to be = seems to "
        "be; appear to be = seem to be; condition where = condition in which; main finding = principal finding; "
        "main findings = principal findings; main feature = principal feature",
        _anywhere,
    ),
    (
        "additionally = in addition = furthermore = moreover; however = nevertheless; therefore = thus = hence; "
        "overall = on the whole; lastly = finally; in summary = in conclusion",
        _opens,
    ),
    ("due to = because of = owing to; leading to = resulting in", _not_after_be),
    ("approximately = about = roughly", _before("CD")),
    ("region = area; regions = areas", _is_described),
    ("is located = is situated = lies; are located = are situated = lie; located > situated", _PLACE),
    ("is visible > can be seen; are visible > can be seen", _PLACE),
    ("seen = observed", lambda span: span[0].tag_ == "VBN" and not _precedes(span, "as")),
    ("is used to > serves to; are used to > serve to; helps to = helps; help to = help", _INFINITIVE),
    ("difficult to = hard to", _INFINITIVE),
    ("allowing for = permitting; within > in", _before("DT")),
    ("likely = probably", lambda span: span[0].pos_ == "ADV" and span.doc[max(span.start - 1, 0)].pos_ != "ADV"),
    ("may = might", lambda span: span[0].tag_ == "MD"),
    ("leads to = results in; lead to = result in; led to = resulted in", _is_verb),
    ("used > employed", lambda span: span[0].tag_ == "VBN" and span[0].dep_ == "acl"),
    ("evident = apparent", lambda span: span[0].dep_ == "acomp"),
    ("because > since; although = though", lambda span: span[0].dep_ == "mark"),
    ("while > whereas", _after_comma),
    ("in the image = in this image", _before(".", ",")),
    ("the image = this image", lambda span: span[0].is_sent_start and _before("VBZ", "MD")(span)),
)
VERBS = {  # lemma -> lemmas with the same complements
    "show": ("demonstrate", "reveal", "display"),
    "demonstrate": ("show", "reveal", "display"),
    "reveal": ("show", "demonstrate"),
    "display": ("show", "demonstrate"),
    "depict": ("show",),
    "illustrate": ("show",),
    "exhibit": ("show", "display"),
    "evaluate": ("assess",),
    "assess": ("evaluate",),
    "require": ("need",),
    "utilize": ("use", "employ"),
    "use": ("employ",),
}
_PATTERNS = [
    (
        re.compile(rf"(?<![\w-])(?:{group.split(' > ')[0].replace(' = ', '|')})(?![\w-])", re.IGNORECASE),
        group,
        condition,
    )
    for groups, condition in GROUPS
    for group in groups.split("; ")
]


def word_choices(doc: Any) -> list[Choice]:
    """The choices in a parsed text, left to right without overlap."""
    found = sorted([*_phrase_choices(doc), *_verb_choices(doc)], key=lambda choice: (choice.start, -choice.end))
    return [
        choice for number, choice in enumerate(found) if all(other.end <= choice.start for other in found[:number])
    ]


def _phrase_choices(doc: Any) -> Iterator[Choice]:
    for pattern, words, condition in _PATTERNS:
        group = re.split(" [=>] ", words)
        for match in pattern.finditer(doc.text):
            span = doc.char_span(match.start(), match.end())
            if span is not None and condition(span):
                yield _choice(doc, span.start, span.end, [other for other in group if other != match[0].lower()])


def _verb_choices(doc: Any) -> Iterator[Choice]:
    for token in doc:
        if token.pos_ != "VERB" or token.lemma_ not in VERBS or token.nbor(-1 if token.i else 0).text == "-":
            continue
        children = {child.dep_ for child in token.children}
        passive = (
            token.tag_ == "VBN" and "auxpass" in children and token.lemma_ in ("use", "utilize", "evaluate", "assess")
        )
        active = "dobj" in children and token.tag_ in ("VB", "VBZ", "VBP", "VBG") and token.lemma_ != "use"
        active = active or (token.tag_ == "VBD" and {"dobj", "nsubj"} <= children)
        if passive or (active and not children & {"ccomp", "xcomp", "dative", "prt", "dep"}):
            yield _choice(doc, token.i, token.i + 1, [inflected(lemma, token.tag_) for lemma in VERBS[token.lemma_]])


def _choice(doc: Any, start: int, end: int, others: list[str]) -> Choice:
    """A choice whose words have the capital of the replaced ones, and the article before them its form."""
    if start and doc[start - 1].lower_ in ("a", "an"):
        article = doc[start - 1].text
        others = [other for other in others if not other.startswith("a ")]
        forms = [with_article(other) for other in others]
        return Choice(start - 1, end, tuple(article[0] + form[1:] for form in forms))
    if doc[start].text[0].isupper():
        others = [other[0].upper() + other[1:] for other in others]
    return Choice(start, end, tuple(others))
