# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Other sentences of the same meaning, by the type of a parsed sentence: what it shows, where it is, what there is.

A template takes whole phrases of the parse (a subject, everything after the verb), and the verb that it adds agrees
with the phrase that becomes its subject. It applies only where the parse has no part that it would leave out. Where
none applies, words that state nothing introduce the sentence ("It should be noted that").
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from .english import PLURAL_TAGS, RULES, lower_first


Piece = Callable[[int, int], str]  # the text of the document's tokens from the first to before the second number
_RULES = RULES["sentence"]
_WORDS = {kind: frozenset(words.split()) for kind, words in _RULES.items() if isinstance(words, str)}
_IMAGES = _WORDS["images"]
VERB = re.compile(_RULES["verb"])
_WORDS_OF_FRONT = 14
_WORDS_OF_SUBJECT = 16
_FINITE = ("VBZ", "VBP", "VBD", "MD")
_SUBJECTS = ("nsubj", "nsubjpass", "expl")
_SEEN = ("present", "visible", "seen", "noted")


def sentence_variants(sentence: Any, piece: Piece) -> list[str]:
    """The sentence in other structures, without its final mark and beginning in lower or upper case; may be empty.

    Args:
        sentence: A span of one parsed sentence, without its final mark.
        piece: Returns the words of tokens, some of them perhaps replaced; stripped.
    """
    root = sentence.root
    is_phrase = not root.is_sent_start and root.pos_ not in ("VERB", "AUX")
    if is_phrase or sentence.text.endswith("?") or ";" in sentence.text:
        return []
    templates = (_shown_by_image, _seen_in_image, _existence, _located, _identity, _this_is, _moved_adverbial)
    return [each for template in (*templates, _reordered_list) for each in template(sentence, root, piece)]


def _shown_by_image(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "The image shows a mass." -> "A mass can be seen in the image."."""
    subject, thing = child_of(root, "nsubj"), child_of(root, "dobj")
    plain = {child.dep_ for child in root.children} <= {"nsubj", "dobj", "prep", "punct", "advmod"}
    if (
        root.lemma_ not in _WORDS["show"]
        or root.tag_ not in ("VBZ", "VBP")
        or subject is None
        or thing is None
        or not plain
    ):
        return
    if thing.left_edge.i != root.i + 1 or subject.left_edge.i != sentence.start or subject.right_edge.i != root.i - 1:
        return
    what = piece(root.i + 1, sentence.end)
    is_list = any(token.dep_ == "cc" for token in thing.subtree)
    if (
        any(token.dep_ in ("relcl", "appos", "advcl") for token in sentence)
        or ("," in what and not is_list)  # the phrase needs a second comma before the verb
        or len(what.split()) > _WORDS_OF_SUBJECT
        or thing.pos_ == "PRON"
        or "," in subject.doc[subject.left_edge.i : root.i].text
    ):
        return
    if subject.lower_ in ("it", "this") and subject.left_edge == subject.right_edge:
        yield from (f"{what} can be {seen}" for seen in ("seen", "observed", "made out"))
    elif subject.lower_ in _IMAGES:
        place = f"{'on' if subject.lower_ in _WORDS['on'] else 'in'} {lower_first(piece(sentence.start, root.i))}"
        yield from (f"{what} can be seen {place}", f"{place}, {what} can be seen")
        if not is_list and not any(token.dep_ == "conj" for token in thing.subtree):
            yield f"{what} {_be(thing)} shown {place}"


def _seen_in_image(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "A mass can be seen in the image." -> "The image shows a mass."."""
    subject = child_of(root, "nsubjpass") or (child_of(root, "nsubj") if root.lemma_ == "be" else None)
    visible = child_of(root, "acomp")
    is_visible = visible is not None and visible.lower_ in ("visible", "present")
    is_seen = is_visible or (root.lemma_ in _WORDS["see"] and root.tag_ == "VBN")
    if subject is None or not is_seen or child_of(root, "neg") is not None or subject.left_edge.i != sentence.start:
        return
    verb = next((token for token in root.children if token.dep_ in ("aux", "auxpass")), root)
    end = max(root.i, visible.i if visible is not None else 0) + 1
    if subject.right_edge.i != verb.i - 1 or subject.pos_ == "PRON" or verb.lower_ not in ("can", "is", "are"):
        return
    what, rest = lower_first(piece(sentence.start, verb.i)), sentence.doc[end : sentence.end]
    if not len(rest):
        yield from (f"the image shows {what}", f"one can see {what}")
    elif rest[0].lower_ in ("in", "on") and not any(token.dep_ in ("prep", "punct", "relcl") for token in rest[1:]):
        if rest[-1].lemma_ in _IMAGES and rest[1].lower_ in ("the", "this"):
            yield f"{piece(end + 1, sentence.end)} shows {what}"
            yield f"{piece(end, sentence.end)}, {what} can be seen"


def _existence(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "There is a cyst in the liver." -> "A cyst is seen in the liver."."""
    thing, there = child_of(root, "attr") or child_of(root, "nsubj"), child_of(root, "expl")
    if there is None or there.i != sentence.start or root.i != there.i + 1 or root.tag_ not in ("VBZ", "VBP"):
        return
    if thing is None or thing.left_edge.i != root.i + 1 or thing.pos_ == "PRON":
        return
    if any(token.text in (",", ":") or token.dep_ in ("relcl", "conj", "advcl") for token in sentence):
        return
    after = [token for token in sentence if token.i > thing.i]
    stop = next((token.i for token in after if token.head == thing and token.lower_ in _SEEN), None)
    place = next((token.i for token in after if token.lower_ in ("in", "on", "at", "within")), sentence.end)
    if stop is not None:
        yield f"{piece(root.i + 1, stop)} {root.lower_} {piece(stop, sentence.end)}"
    elif not any(token.lower_ in _SEEN for token in after):
        what, where = piece(root.i + 1, place), piece(place, sentence.end)
        yield from (f"{what} {root.lower_} {word} {where}".strip() for word in _SEEN[:3] if word not in what)


def _located(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "The mass is located in the liver." -> "The mass lies in the liver."."""
    subject = child_of(root, "nsubjpass")
    if root.lower_ not in ("located", "situated", "found") or subject is None or subject.left_edge.i != sentence.start:
        return
    be = root.nbor(-1).lower_
    if root.i + 1 < sentence.end and root.nbor().tag_ == "IN" and be in ("is", "are"):
        if subject.right_edge.i == root.i - 2:
            what, where = piece(sentence.start, root.i - 1), piece(root.i + 1, sentence.end)
            lies = "lies" if be == "is" else "lie"
            yield from (f"{what} {verb} {where}" for verb in (lies, "can be found", "can be seen"))


def _identity(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "The organ in the image is the liver." -> "The liver is the organ in the image."."""
    subject, what = child_of(root, "nsubj"), child_of(root, "attr")
    if subject is None or what is None or root.lemma_ != "be" or root.tag_ not in ("VBZ", "VBP"):
        return
    plain = {child.dep_ for child in root.children} <= {"nsubj", "attr", "punct"}
    if not plain or subject.left_edge.lower_ != "the" or what.left_edge.i != root.i + 1:
        return
    first, names_role = what.left_edge.lower_, subject.lemma_ in _WORDS["roles"]
    is_definite = first in ("the", "this") or (names_role and first != "a")
    excluded = ("relcl", "acl", "conj", "neg")
    simple = not any(token.text in (",", ":") or token.dep_ in excluded for token in what.subtree)
    is_noun = what.pos_ in ("NOUN", "PROPN") and subject.lower_ not in _IMAGES
    if is_definite and simple and is_noun and _be(subject) == _be(what):
        yield f"{piece(root.i + 1, sentence.end)} {root.lower_} {lower_first(piece(sentence.start, root.i))}"


def _this_is(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "The image is an axial CT of the head." -> "Shown here is an axial CT of the head."."""
    subject, what = child_of(root, "nsubj"), child_of(root, "attr")
    opening = sentence.doc[sentence.start : root.i].text.lower()
    if opening not in ("this", "it", "the image", "this image") or root.lower_ != "is" or None in (subject, what):
        return
    if "image" not in opening and sentence.start and what.lower_ not in _IMAGES:
        return  # "this" refers to the sentence before
    first = what.left_edge
    if first.i == root.i + 1 and first.lower_ in ("a", "an", "the") and child_of(root, "neg") is None:
        rest = piece(root.i + 1, sentence.end)
        named = "the image is" if what.lower_ in _IMAGES else "what is seen is"
        other = "this is" if "image" in opening else named
        yield from (f"shown here is {rest}", f"{other} {rest}", f"what is shown here is {rest}")


def _moved_adverbial(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "In the image, X can be seen." <-> "X can be seen in the image."."""
    first, doc, end = sentence[0], sentence.doc, sentence.end
    comma = next((token.i for token in sentence if token.text == ","), None)
    subject = next((token for token in root.children if token.dep_ in _SUBJECTS), None)
    if subject is None:
        return
    if first.lower_ in ("in", "on") and comma and doc[first.i + 1 : comma].text.lower() in _RULES["adverbial"]:
        rest = doc[comma + 1 : end]
        if len(rest) <= _WORDS_OF_FRONT and "," not in rest.text and subject.left_edge.i == comma + 1:
            yield f"{piece(comma + 1, end)} {lower_first(piece(first.i, comma))}"
    elif len(sentence) > 5 and comma is None and sentence[-2:].text.lower() in _RULES["adverbial"]:
        word = doc[end - 3]
        if word.lower_ in ("in", "on") and subject.left_edge.i == first.i and word.head == root:
            yield f"{piece(word.i, end)}, {lower_first(piece(first.i, word.i))}"


def _reordered_list(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "the liver, the spleen and the colon" -> "the spleen, the liver and the colon"."""
    doc = sentence.doc
    if any(token.lower_ in _WORDS["fixed_order"] for token in sentence):
        return
    for head in sentence:
        second = child_of(head, "conj")
        if second is None or head.dep_ not in ("dobj", "pobj", "attr", "nsubj", "nsubjpass"):
            continue
        start, middle, end = head.left_edge.i, second.left_edge.i, second.i + 1  # without the items after the second
        items = (doc[start : head.i + 1], doc[middle:end])
        are_short = all(item[0].lower_ == "the" and len(item) <= 5 for item in items)
        ends = end == sentence.end or doc[end].text in (",", "and")
        if doc[head.i + 1 : middle].text.lower() not in (",", "and", ", and") or not are_short or not ends:
            continue
        if start != sentence.start:
            separator, rest = piece(head.i + 1, middle), piece(end, sentence.end)
            gap, following = ("" if not text or text[0] == "," else " " for text in (separator, rest))
            swapped = f"{piece(middle, end)}{gap}{separator} {piece(start, head.i + 1)}"
            yield f"{piece(sentence.start, start)} {swapped}{following}{rest}".strip()


def general_frames(sentence: Any, piece: Piece) -> list[str]:
    """A statement after words that only introduce it; empty for what is no statement of its own."""
    if request := re.match(r"(?:Keep in mind|Note) that ", sentence.text):
        rest = piece(sentence.start + request[0].count(" "), sentence.end)
        return [f"{frame} {rest}" for frame in _RULES["noting"]]
    first, root, words = sentence[0], sentence.root, {token.lower_ for token in sentence}
    has_colon = ":" in re.sub(r"\([^()]*\)", "", sentence.text)
    if sentence[-1].text == "?" or has_colon or _WORDS["address"] & words or root.lower_ in ("left", "right"):
        return []
    subject = next((child for child in root.children if child.dep_ in _SUBJECTS), None)
    start = _start_of_clause(sentence, subject)
    finite = root.tag_ in _FINITE or any(
        child.dep_ in ("aux", "auxpass") and child.tag_ in _FINITE for child in root.children
    )
    is_clause = subject is not None and subject.left_edge.i == start and finite and not _is_reduced(root)
    mistaken = not finite and any(token.lower_ in _WORDS["taken_for_nouns"] and token.i > start for token in sentence)
    if not is_clause and not (mistaken and sentence.doc[start].tag_ in ("DT", "NN", "NNS", "NNP", "JJ")):
        return []
    connector, whole = "", lower_first(piece(sentence.start, sentence.end))
    if sentence[1].text == "," and first.pos_ in ("ADV", "INTJ", "ADJ", "CCONJ", "SCONJ"):  # However, Second, Yes,
        connector, whole = f"{first.text}, ", lower_first(piece(first.i + 2, sentence.end))
    frames = [f"{frame} {whole}" for frame in _RULES["noting"]]
    if words & {"image", "figure", "images", "picture", "scan"}:
        frames.append(f"it can be seen that {whole}")
    elif not connector and start == first.i and first.lower_ in ("the", "there", "no") and words & _WORDS["visible"]:
        frames += [f"as the image shows, {whole}", f"the image shows that {whole}"]
    return [f"{connector}{frame}" for frame in frames]


def fragment_frames(sentence: Any, piece: Piece) -> list[str]:
    """A phrase without a verb after words that only introduce it; empty for what is no such phrase."""
    finite = any(t.tag_ in _FINITE and t.lower_ != "left" and not _is_reduced(t) for t in sentence)
    has_mark = sentence.end < len(sentence.doc) and sentence.doc[sentence.end].text == "."
    first = sentence[0]
    if finite or (has_mark and first.lower_ in ("the", "this", "these", "that")) or VERB.search(sentence.text):
        return []
    named = re.match(r"\([a-z]+ ?\) [A-Z]", sentence.text)  # "(bottom) Analysis of"
    opens = named or first.tag_ in _WORDS["opens_phrase"]
    if sentence.start or not opens or sentence[-1].text in ("?", ":"):
        return []
    whole = lower_first(piece(sentence.start, sentence.end))
    if first.tag_ == "IN":
        frames = ("it is", "it is located", "the location is") if first.lower_ in _WORDS["places"] else ()
    else:
        frames = RULES["label"]["shown"]
    return [f"{frame} {whole}" for frame in frames]


def _start_of_clause(sentence: Any, subject: Any) -> int:
    """Where the clause begins after an opening such as "However," or "In this scan,"."""
    first = sentence[0]
    opens = first.pos_ in ("ADV", "INTJ", "ADP", "SCONJ") or first.lower_ in _WORDS["openings"]
    if not opens or any(token.dep_ == "mark" for token in sentence[:2]):
        return sentence.start
    commas = [token.i for token in sentence[:-1] if token.text == ","]
    if subject is not None and subject.left_edge.i - 1 in commas:
        return subject.left_edge.i
    return next((comma + 1 for comma in commas if comma < first.i + 12), sentence.start)


def _is_reduced(verb: Any) -> bool:
    """Whether a form in -ed, parsed as a past tense, is rather a participle: "appendix adhered to the kidney"."""
    subject = child_of(verb, "nsubj")
    bare = subject is not None and not any(child.dep_ in ("det", "poss") for child in subject.children)
    own = child_of(verb, "dobj") is not None and verb.lemma_ in ("show", "reveal", "demonstrate", "display")
    return verb.tag_ == "VBD" and verb.text.endswith("ed") and bare and not own


def child_of(token: Any, dependency: str) -> Any | None:
    """The first child of a token with this dependency."""
    return next((child for child in token.children if child.dep_ == dependency), None)


def _be(noun: Any) -> str:
    """The form of "to be" that agrees with a phrase by its head."""
    if noun.left_edge.lower_ in ("a", "an", "this", "that", "one"):
        return "is"
    return "are" if noun.tag_ in PLURAL_TAGS or child_of(noun, "conj") is not None else "is"
