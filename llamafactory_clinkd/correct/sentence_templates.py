# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Other sentences of the same meaning, by the type of a parsed sentence: what it shows, where it is, what there is.

A template takes whole phrases of the parse (a subject, everything after the verb), and the verb that it adds agrees
with the phrase that becomes its subject. It applies only where the parse has no part that it would leave out.
"""

from collections.abc import Callable, Iterator
from typing import Any

from .english import PLURAL_TAGS, lower_first


Piece = Callable[[int, int], str]  # the text of the document's tokens from the first to before the second number
IMAGES = frozenset(
    "image scan picture photograph radiograph x-ray xray ray mri ct slice view film figure radiography tomography "
    "micrograph photomicrograph ultrasound angiogram mammogram tomogram section specimen".split()
)
_ON = frozenset("scan radiograph x-ray xray ray mri ct film radiography tomography ultrasound mammogram".split())
_SHOW = frozenset("show demonstrate reveal display depict illustrate".split())
_SEE = frozenset("see observe show visualize note identify demonstrate present find".split())
_ROLES = frozenset(  # subjects that a complement without an article identifies: "The diagnosis is sialadenitis"
    "organ diagnosis technique modality method finding cause structure abnormality location plane part bone".split()
)
_WORDS_OF_FRONT = 14
_WORDS_OF_SUBJECT = 16


def sentence_variants(sentence: Any, piece: Piece) -> list[str]:
    """The sentence in other structures, without its final mark and beginning in lower or upper case; may be empty.

    Args:
        sentence: A span of one parsed sentence, without its final mark.
        piece: Returns the words of tokens, some of them perhaps replaced; stripped.
    """
    root = sentence.root
    if (
        not root.is_sent_start
        and root.pos_ not in ("VERB", "AUX")
        or sentence.text.endswith("?")
        or ";" in sentence.text
    ):
        return []
    templates = (_shown_by_image, _seen_in_image, _existence, _identity, _this_is, _moved_adverbial, _reordered_list)
    return [variant for template in templates for variant in template(sentence, root, piece)]


def _shown_by_image(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "The image shows a mass." -> "A mass can be seen in the image."."""
    subject, thing = child_of(root, "nsubj"), child_of(root, "dobj")
    plain = {child.dep_ for child in root.children} <= {"nsubj", "dobj", "prep", "punct", "advmod"}
    if root.lemma_ not in _SHOW or root.tag_ not in ("VBZ", "VBP") or subject is None or thing is None or not plain:
        return
    if thing.left_edge.i != root.i + 1 or subject.left_edge.i != sentence.start or subject.right_edge.i != root.i - 1:
        return
    if any(token.dep_ in ("relcl", "appos", "advcl") for token in sentence):
        return
    what, be = piece(root.i + 1, sentence.end), _be(thing)
    if "," in what and not any(token.dep_ == "cc" for token in thing.subtree):
        return  # no list: the phrase needs a second comma before the verb
    if (
        len(what.split()) > _WORDS_OF_SUBJECT
        or thing.pos_ == "PRON"
        or "," in subject.doc[subject.left_edge.i : root.i].text
    ):
        return
    if subject.lower_ in ("it", "this") and subject.left_edge == subject.right_edge:
        yield from (f"{what} can be seen", f"{what} can be observed", f"{what} can be made out")
    elif _is_image(subject):
        place = f"{_preposition(subject)} {lower_first(piece(sentence.start, root.i))}"
        yield from (f"{what} can be seen {place}", f"{place}, {what} can be seen")
        if not any(token.dep_ in ("cc", "conj") for token in thing.subtree):
            yield f"{what} {be} shown {place}"


def _seen_in_image(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "A mass can be seen in the image." -> "The image shows a mass."."""
    subject = child_of(root, "nsubjpass") or (child_of(root, "nsubj") if root.lemma_ == "be" else None)
    visible = child_of(root, "acomp")
    is_seen = (root.lemma_ in _SEE and root.tag_ == "VBN") or (
        visible is not None and visible.lower_ in ("visible", "present")
    )
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
        image = rest[-1]
        if image.lemma_ in IMAGES and rest[1].lower_ in ("the", "this"):
            yield from (
                f"{piece(end + 1, sentence.end)} shows {what}",
                f"{piece(end, sentence.end)}, {what} can be seen",
            )


def _existence(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "There is a cyst in the liver." -> "A cyst is seen in the liver."; and back for "is located"."""
    thing = child_of(root, "attr") or child_of(root, "nsubj")
    there = child_of(root, "expl")
    if there is not None and there.i == sentence.start and root.i == there.i + 1 and root.tag_ in ("VBZ", "VBP"):
        if thing is None or thing.left_edge.i != root.i + 1 or thing.pos_ == "PRON":
            return
        after = [token for token in sentence if token.i > thing.i]
        seen = ("present", "visible", "seen", "noted")
        stop = next((token.i for token in after if token.head == thing and token.lower_ in seen), None)
        place = next((token.i for token in after if token.lower_ in ("in", "on", "at", "within")), None)
        if any(token.text in (",", ":") or token.dep_ in ("relcl", "conj", "advcl") for token in sentence):
            return
        if stop is not None:
            yield f"{piece(root.i + 1, stop)} {root.lower_} {piece(stop, sentence.end)}"
        elif any(token.lower_ in seen for token in after):
            return
        elif place is not None:
            what, where = piece(root.i + 1, place), piece(place, sentence.end)
            yield from (
                f"{what} {root.lower_} {word} {where}" for word in ("present", "seen", "visible") if word not in what
            )
        else:
            what = piece(root.i + 1, sentence.end)
            yield from (f"{what} {root.lower_} {word}" for word in ("present", "seen", "visible") if word not in what)
        return
    subject = child_of(root, "nsubjpass")
    located = (
        root.lower_ in ("located", "situated", "found")
        and subject is not None
        and subject.left_edge.i == sentence.start
    )
    if located and root.i + 1 < sentence.end and root.nbor().tag_ == "IN" and root.nbor(-1).lower_ in ("is", "are"):
        if subject.right_edge.i == root.i - 2:
            what, where = piece(sentence.start, root.i - 1), piece(root.i + 1, sentence.end)
            lies = "lies" if root.nbor(-1).lower_ == "is" else "lie"
            yield from (f"{what} {lies} {where}", f"{what} can be found {where}", f"{what} can be seen {where}")


def _identity(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "The organ in the image is the liver." -> "The liver is the organ in the image."."""
    subject, what = child_of(root, "nsubj"), child_of(root, "attr")
    if subject is None or what is None or root.lemma_ != "be" or root.tag_ not in ("VBZ", "VBP"):
        return
    children = {child.dep_ for child in root.children}
    if (
        not children <= {"nsubj", "attr", "punct"}
        or subject.left_edge.lower_ != "the"
        or what.left_edge.i != root.i + 1
    ):
        return
    is_definite = what.left_edge.lower_ in ("the", "this") or (
        subject.lemma_ in _ROLES and what.left_edge.lower_ != "a"
    )
    simple = not any(
        token.text in (",", ":") or token.dep_ in ("relcl", "acl", "conj", "neg") for token in what.subtree
    )
    if (
        is_definite
        and simple
        and what.pos_ in ("NOUN", "PROPN")
        and (_be(subject) == _be(what))
        and not _is_image(subject)
    ):
        yield f"{piece(root.i + 1, sentence.end)} {root.lower_} {lower_first(piece(sentence.start, root.i))}"


def _this_is(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "The image is an axial CT of the head." -> "Shown here is an axial CT of the head."."""
    subject, what = child_of(root, "nsubj"), child_of(root, "attr")
    opening = sentence.doc[sentence.start : root.i].text.lower()
    if opening not in ("this", "it", "the image", "this image") or root.lower_ != "is" or None in (subject, what):
        return
    if "image" not in opening and sentence.start and not _is_image(what):
        return  # "this" refers to the sentence before
    if (
        what.left_edge.i == root.i + 1
        and what.left_edge.lower_ in ("a", "an", "the")
        and child_of(root, "neg") is None
    ):
        rest = piece(root.i + 1, sentence.end)
        other = "this is" if "image" in opening else "the image is" if _is_image(what) else "what is seen is"
        yield from (f"shown here is {rest}", f"{other} {rest}", f"what is shown here is {rest}")


def _moved_adverbial(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "In the image, X can be seen." <-> "X can be seen in the image."."""
    first, last = sentence[0], sentence[-1]
    comma = next((token.i for token in sentence if token.text == ","), None)
    adverbial = ("the image", "this image", "this case", "the picture", "the figure", "this figure", "this context")
    if (
        first.lower_ in ("in", "on")
        and comma is not None
        and sentence.doc[first.i + 1 : comma].text.lower() in adverbial
    ):
        rest = sentence.doc[comma + 1 : sentence.end]
        subject = next((t for t in root.children if t.dep_ in ("nsubj", "nsubjpass", "expl")), None)
        if len(rest) <= _WORDS_OF_FRONT and "," not in rest.text and subject and subject.left_edge.i == comma + 1:
            yield f"{piece(comma + 1, sentence.end)} {lower_first(piece(first.i, comma))}"
    elif (
        len(sentence) > 5
        and sentence.doc[last.i - 2].lower_ in ("in", "on")
        and sentence[-2:].text.lower() in adverbial
    ):
        subject = next((t for t in root.children if t.dep_ in ("nsubj", "nsubjpass", "expl")), None)
        if (
            subject
            and subject.left_edge.i == first.i
            and "," not in sentence.text
            and sentence.doc[last.i - 2].head == root
        ):
            yield f"{piece(last.i - 2, sentence.end)}, {lower_first(piece(first.i, last.i - 2))}"


def _reordered_list(sentence: Any, root: Any, piece: Piece) -> Iterator[str]:
    """Templates like "the liver, the spleen and the colon" -> "the spleen, the liver and the colon"."""
    words = {token.lower_ for token in sentence}
    if words & {"respectively", "former", "latter", "then", "from", "between", "both", "other", "its", "their"}:
        return
    for head in sentence:
        second = next((child for child in head.children if child.dep_ == "conj"), None)
        if second is None or head.dep_ not in ("dobj", "pobj", "attr", "nsubj", "nsubjpass"):
            continue
        between = sentence.doc[head.i + 1 : second.left_edge.i].text.lower()
        end = second.i + 1  # the second item without the items after it
        items = [sentence.doc[head.left_edge.i : head.i + 1], sentence.doc[second.left_edge.i : end]]
        if between not in (",", "and", ", and") or not all(
            item[0].lower_ == "the" and len(item) <= 5 for item in items
        ):
            continue
        if end < sentence.end and sentence.doc[end].text not in (",", "and") or items[0].start == sentence.start:
            continue
        start, separator = items[0].start, piece(head.i + 1, second.left_edge.i)
        gap = "" if separator[0] == "," else " "
        swapped = f"{piece(items[1].start, items[1].end)}{gap}{separator} {piece(start, head.i + 1)}"
        rest = piece(end, sentence.end)
        yield f"{piece(sentence.start, start)} {swapped}{'' if not rest or rest[0] == ',' else ' '}{rest}".strip()


def child_of(token: Any, dependency: str) -> Any | None:
    """The first child of a token with this dependency."""
    return next((child for child in token.children if child.dep_ == dependency), None)


def _be(noun: Any) -> str:
    """The form of "to be" that agrees with a phrase by its head."""
    if noun.left_edge.lower_ in ("a", "an", "this", "that", "one"):
        return "is"
    return "are" if noun.tag_ in PLURAL_TAGS or child_of(noun, "conj") is not None else "is"


def _is_image(noun: Any) -> bool:
    return noun.lower_ in IMAGES


def _preposition(noun: Any) -> str:
    return "on" if noun.lower_ in _ON else "in"
