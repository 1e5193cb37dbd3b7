# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Words that introduce a statement or a phrase, where no template of :mod:`.sentence_templates` applies to it."""

import re
from typing import Any

from .english import lower_first
from .sentence_templates import Piece, child_of


VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|shows?|appears?|seems?|suggests?|indicates?|represents?|depicts?|displays?|"
    r"contains?|consists?|points?|measures?|includes?|presents?|reveals?|demonstrates?|lies|lie)\b",
    re.IGNORECASE,
)
_OPENS_PHRASE = ("NN", "NNS", "NNP", "NNPS", "JJ", "DT", "CD", "IN", "VBN", "VBG", "VBD", "RB", "FW", "JJR")
_VISIBLE = frozenset("there seen visible located situated lies lie appears appear enlarged present".split())
_TAKEN_FOR_NOUNS = frozenset("shows show demonstrates reveals displays measures points stains include".split())
_ADDRESS = frozenset("i me us my our your please".split())
_PLACES = frozenset(
    "in at on within near inside between above below behind along beneath underneath over under".split()
)


def general_frames(sentence: Any, piece: Piece) -> list[str]:
    """A statement after words that only introduce it; empty for what is no statement of its own."""
    first, root = sentence[0], sentence.root
    start = _start_of_clause(sentence)
    if (
        sentence[-1].text == "?"
        or ":" in sentence.text
        or _ADDRESS & {token.lower_ for token in sentence}
        or root.lower_ in ("left", "right")
    ):
        return []
    subject = next((child for child in root.children if child.dep_ in ("nsubj", "nsubjpass", "expl")), None)
    is_clause = subject is not None and subject.left_edge.i == start and _is_finite(root) and not is_reduced(root)
    mistaken = any(token.lower_ in _TAKEN_FOR_NOUNS and token.i > start for token in sentence) and not _is_finite(root)
    if not is_clause and not (mistaken and sentence.doc[start].tag_ in ("DT", "NN", "NNS", "NNP", "JJ")):
        return []
    connector, whole = "", lower_first(piece(sentence.start, sentence.end))
    if start == first.i + 2 and first.pos_ in ("ADV", "INTJ", "ADJ", "CCONJ", "SCONJ"):  # However, Second, Yes,
        connector, whole = f"{first.text}, ", lower_first(piece(start, sentence.end))
    frames = [f"it should be noted that {whole}", f"it is worth noting that {whole}", f"it is of note that {whole}"]
    words = {token.lower_ for token in sentence}
    if words & {"image", "figure", "images", "picture", "scan"}:
        frames.append(f"it can be seen that {whole}")
    elif not connector and start == first.i and first.lower_ in ("the", "there", "no") and words & _VISIBLE:
        frames += [f"as the image shows, {whole}", f"the image shows that {whole}"]
    return [f"{connector}{frame}" for frame in frames]


def fragment_frames(sentence: Any, piece: Piece) -> list[str]:
    """A phrase without a verb after words that only introduce it; empty for what is no such phrase."""
    if not _is_fragment(sentence):
        return []
    whole = lower_first(piece(sentence.start, sentence.end))
    if sentence[0].tag_ == "IN":
        return (
            [f"it is {whole}", f"it is located {whole}", f"the location is {whole}"]
            if sentence[0].lower_ in _PLACES
            else []
        )
    return [f"shown here: {whole}", f"seen in the image: {whole}", f"visible here: {whole}"]


def _start_of_clause(sentence: Any) -> int:
    """Where the clause begins after an opening such as "However," or "In this scan,"."""
    comma = next((token.i for token in sentence[:12] if token.text == ","), None)
    opens = sentence[0].pos_ in ("ADV", "INTJ", "ADP", "SCONJ") or sentence[0].lower_ in (
        "second",
        "first",
        "third",
        "based",
    )
    subordinate = sentence[0].dep_ == "mark" or any(token.dep_ == "mark" for token in sentence[:2])
    return (
        comma + 1 if comma is not None and opens and not subordinate and comma + 1 < sentence.end else sentence.start
    )


def is_reduced(verb: Any) -> bool:
    """Whether a form in -ed, parsed as a past tense, is rather a participle: "appendix adhered to the kidney"."""
    subject = child_of(verb, "nsubj")
    bare = subject is not None and not any(child.dep_ in ("det", "poss") for child in subject.children)
    own = child_of(verb, "dobj") is not None and verb.lemma_ in ("show", "reveal", "demonstrate", "display")
    return verb.tag_ == "VBD" and verb.text.endswith("ed") and bare and not own


def _is_finite(root: Any) -> bool:
    tags = ("VBZ", "VBP", "VBD", "MD")
    return root.tag_ in tags or any(child.dep_ in ("aux", "auxpass") and child.tag_ in tags for child in root.children)


def _is_fragment(sentence: Any) -> bool:
    """Whether it is a phrase without a verb of its own, and no command."""
    tags = ("VBZ", "VBP", "VBD", "MD")
    finite = any(token.tag_ in tags and token.lower_ != "left" and not is_reduced(token) for token in sentence)
    has_mark = sentence.end < len(sentence.doc) and sentence.doc[sentence.end].text == "."
    if finite or (has_mark and sentence[0].lower_ in ("the", "this", "these", "that")) or VERB.search(sentence.text):
        return False
    return sentence.start == 0 and sentence[0].tag_ in _OPENS_PHRASE and sentence[-1].text not in ("?", ":")
