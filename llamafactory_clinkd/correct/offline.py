# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The default corrector: rewords the ground truth by grammar, on this machine, with the same result for the same row.

It makes labels more diverse without changing their meaning. It has no medical knowledge, so it ignores the model's
answer. Rules see each box, and each reference with its boxes, as one *atom*: a private-use character that no rule can
change. A random generator seeded by the row's id chooses which rules apply. ``docs/correction.md`` lists the rules.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from ..utils.boxes import TAGS, box_strings, strip_boxes
from ..utils.spacy_english import load_english
from .corrector import CorrectionItem, CorrectionResult, Usage
from .english import check_parser, upper_first, word_choices
from .label_templates import label_variants
from .rewording_validation import label_key
from .sentence_templates import VERB, fragment_frames, general_frames, sentence_variants


GROUP_SIZE = 32
LABEL_WORDS = 6
TRIES = 8  # random rewordings for each requested one
_FIRST_ATOM, _LAST_ATOM = 0xE000, 0xF8FF
_ATOM = f"[{chr(_FIRST_ATOM)}-{chr(_LAST_ATOM)}]"


class OfflineCorrector:
    """Rewords by the rules of this package; at most ``candidates`` rewordings a row.

    Raises:
        ValueError: If ``candidates`` is below 1.
        ImportError: If a library of the extra ``correct`` is not installed.
    """

    name = "offline:grammar-2"
    prompt_text = ""

    def __init__(self, candidates: int = 3):
        if candidates < 1:
            raise ValueError(f"correction_candidates is {candidates}: expected at least 1.")
        check_parser()
        self._candidates = candidates
        self.start_round(Usage())

    def start_round(self, usage: Usage) -> None:
        """See :meth:`.Corrector.start_round`; rules cost nothing."""
        self.usage = usage

    def correct(self, items: Iterable[CorrectionItem]) -> Iterator[list[CorrectionResult]]:
        """See :meth:`.Corrector.correct`."""
        results = map(self._correct_one, items)
        while group := list(islice(results, GROUP_SIZE)):
            yield group

    def _correct_one(self, item: CorrectionItem) -> CorrectionResult:
        rewordings = reword(item.annotation, question=item.question, seed=item.id, count=self._candidates)
        return CorrectionResult(item.id, tuple(rewordings), None if rewordings else "no_rule")


def reword(text: str, *, question: str, seed: str, count: int) -> list[str]:
    """Up to ``count`` distinct rewordings of ``text``, none equal to it but for case and final mark.

    ``text`` has boxes and tags of any style. The question supplies a subject, never a fact. ``seed`` is the row's id:
    equal arguments give equal results on every machine.
    """
    if not text.strip() or re.search(_ATOM, text):
        return []
    rng = random.Random(seed)  # a str seed goes through SHA-512: independent of PYTHONHASHSEED
    protected = protect(text.strip())
    question = strip_boxes(question)
    if not strip_boxes(text):
        frames = _box_only_frames(protected.text, question)
        pool: Iterable[str] = frames[(start := rng.randrange(len(frames))) :] + frames[:start]
    elif len(protected.text.split()) <= LABEL_WORDS and not VERB.search(protected.text):
        pool = (f"{upper_first(each)}." for each in label_variants(protected.text, question, load_english()))
    else:
        pool = _reworded_texts(protected.text, rng, count)
    found = {label_key(text): ""}
    for restored in map(protected.restore, pool):
        found.setdefault(label_key(restored), restored)
        if len(found) > count:
            break
    return list(found.values())[1:]


class Protected(NamedTuple):
    """A text with atoms in place of boxes and references; ``atoms`` has the original text of each."""

    text: str
    atoms: tuple[str, ...]

    def restore(self, text: str) -> str:
        """Replaces the atoms of ``text`` by the boxes and references."""
        return re.sub(_ATOM, lambda match: self.atoms[ord(match[0]) - _FIRST_ATOM], text)


def protect(text: str) -> Protected:
    """Replaces each box, and each reference with its boxes, by an atom; ``text`` has no private-use characters.

    Raises:
        ValueError: If there are more atoms than private-use characters.
    """
    spans = [rf"{re.escape(tags[k])}.*?{re.escape(tags['/' + k])}" for tags in TAGS.values() for k in ("ref", "box")]
    spans += [re.escape(box) for box in dict.fromkeys(box_strings(text))]
    span = f"(?:{'|'.join(spans)})"
    atoms: list[str] = []

    def to_atom(match: re.Match) -> str:
        atoms.append(match[0])
        return chr(_FIRST_ATOM + len(atoms) - 1)

    protected = re.sub(rf"{span}(?:[\s,]*{span})*", to_atom, text, flags=re.IGNORECASE | re.DOTALL)
    if len(atoms) > _LAST_ATOM - _FIRST_ATOM:
        raise ValueError(f"The text has {len(atoms)} groups of boxes: expected at most {_LAST_ATOM - _FIRST_ATOM}.")
    return Protected(protected, tuple(atoms))


def _box_only_frames(atoms: str, question: str) -> list[str]:
    """Rewordings of an answer that is boxes alone, already replaced by ``atoms``."""
    frames = [f"It is located at {atoms}.", f"Located at {atoms}.", f"It can be found at {atoms}.", f"Here: {atoms}."]
    rest = r"(?:\b(?:located|situated|found|seen|in|on|at|within)\b.*)?\?"
    subject = re.match(rf"\s*where\s+(is|are)\s+(.+?)\s*{rest}", question, re.IGNORECASE)
    if subject and not re.search(_ATOM, subject[2]):
        what = upper_first(subject[2])
        frames = [f"{what} {subject[1].lower()} located at {atoms}.", f"{what} can be seen at {atoms}.", *frames]
    return frames


def _reworded_texts(text: str, rng: random.Random, count: int) -> Iterator[str]:
    """Random combinations of templates and word choices, later ones with introducing words in one sentence."""
    # A capital letter in place of an atom is parsed as a name; both are one character, so positions are the same.
    doc = load_english()(re.sub(_ATOM, "Q", text))
    choices, sentences = word_choices(doc), [_trimmed(sentence) for sentence in doc.sents]
    for attempt in range(TRIES * count):
        with_frame = rng.randrange(len(sentences)) if attempt >= 2 * count else None
        reworded, position = "", 0
        piece = _piece(doc, text, {c.start: (c.end, rng.choice(c.others)) for c in choices if rng.random() < 0.9})
        for number, sentence in enumerate(sentences):
            if len(sentence):
                reworded += text[position : sentence.start_char]
                reworded += _reworded(sentence, piece, rng, number == with_frame)
                position = sentence.end_char
        yield reworded + text[position:]


def _trimmed(sentence: Any) -> Any:
    """A sentence without white space and its final mark, perhaps empty."""
    while len(sentence) and sentence[0].is_space:
        sentence = sentence[1:]
    while len(sentence) and (sentence[-1].is_space or sentence[-1].text in (".", "!")):
        sentence = sentence[:-1]
    return sentence


def _reworded(sentence: Any, piece: Callable[[int, int], str], rng: random.Random, framed: bool) -> str:
    whole = piece(sentence.start, sentence.end)
    variants = sentence_variants(sentence, piece) if rng.random() < 0.85 else []
    if framed and not variants:
        variants = general_frames(sentence, piece) or fragment_frames(sentence, piece)
    chosen = rng.choice(variants) if variants else whole
    return upper_first(chosen) if chosen != whole else whole


def _piece(doc: Any, text: str, replaced: dict[int, tuple[int, str]]) -> Callable[[int, int], str]:
    """A function that returns the original text of tokens with the replacements that lie within them."""

    def piece(start: int, end: int) -> str:
        parts, position = "", start
        while position < end:
            token = doc[position]
            stop, word = replaced.get(position, (0, ""))
            if not stop or stop > end:
                stop, word = position + 1, text[token.idx : token.idx + len(token)]
            parts += word + doc[stop - 1].whitespace_
            position = stop
        return parts.strip()

    return piece
