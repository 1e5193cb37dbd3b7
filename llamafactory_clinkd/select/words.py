# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The words that a candidate is scored by, for each of its boxes.

A text answer is scored by its words. A box is scored by the reference before it (``<ref>liver</ref><box>...</box>``),
else by the words of the whole answer, else by what the question asks for ("Where is the left kidney?").
"""

import re
from typing import NamedTuple

from ..utils.boxes import Box, convert_tags, parse_boxes, strip_boxes


_REFERENCE = re.compile(r"<ref>(.*?)</ref>", re.DOTALL)
_ASKING = re.compile(
    r"""^\W*(please|kindly|(can|could|would|will)\s+you|where(\s+(is|are|can|do|does))?(\s+(i|you|we))?|i\s+want\s+to|
    show(\s+me)?|find|locate|detect|identify|mark|point\s+(out|to)|ground|outline|give(\s+me)?|provide|tell(\s+me)?|
    draw|what\s+(is|are)|which\s+part|the\s+(bounding\s+)?(box|location|position|coordinates|region|area)\s+(of|for)|
    (a|the)\s+bounding\s+box(\s+(of|for|around))?|around|the|a|an|see)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_ENDING = re.compile(
    r"""(\s+(is\s+|are\s+)?(located|found|visible|shown|seen|positioned|situated))?
    (\s+(in|on|within|of)\s+(the|this|that)\s+(given\s+|whole\s+|overall\s+)?(image|picture|scan|slice|figure|photo))?
    (\s+(with|by|using|as)\s+(a|the|its)\s+(bounding\s+)?(box|coordinates))?\W*$""",
    re.IGNORECASE | re.VERBOSE,
)


class Pair(NamedTuple):
    """Words to compare with a box, or with the whole image."""

    words: str
    box: Box | None


def pairs_of(candidate: str, question: str, *, use_boxes: bool) -> list[Pair]:
    """The comparisons whose mean is the score of a candidate; ``words`` may be empty.

    Without ``use_boxes`` there is one, of the answer's own words with the whole image.
    """
    words, own = strip_boxes(candidate), parse_boxes(candidate)
    if not use_boxes:
        return [Pair(words, None)]
    if not own:
        return [Pair(words, box) for box in parse_boxes(question)] or [Pair(words, None)]
    words = words or referent(question)
    references = references_of(candidate)
    if len(references) == len(own):
        return [Pair(reference or words, box) for reference, box in zip(references, own, strict=True)]
    return [Pair(words, box) for box in own]


def references_of(text: str) -> list[str]:
    """The references of ``text`` in order, in any tag style."""
    return [" ".join(found.split()) for found in _REFERENCE.findall(convert_tags(text, "qwen_vl"))]


def referent(question: str) -> str:
    """What a grounding question asks for; the whole question if nothing is left without its asking words.

    >>> referent("Where is the left kidney located in the image?")
    'left kidney'
    """
    references = [reference for reference in references_of(question) if reference]
    if references:
        return ", ".join(references)
    whole = strip_boxes(question)
    words, before = whole, None
    while words != before:
        before, words = words, _ASKING.sub("", words, count=1).strip()
    return _ENDING.sub("", words).strip() or whole
