# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Whether a rewording may replace a ground truth: it keeps "the original meaning and anchor box coordinates" (3.3)."""

import importlib.util
import re
from collections import Counter
from collections.abc import Collection, Sequence

from ..utils.boxes import IMAGE_PLACEHOLDER, TAGS, box_strings, strip_boxes, tags_balanced
from ..utils.control_text import control_character, special_token
from ..utils.spacy_english import require_english
from .clinical_comparison import meaning_differences
from .english import RULES
from .judge import text_similarity
from .similarity import Similarity
from .wordnet import wordnet_folder


LEAK_WORDS = 5
LOCATING_WORDS = frozenset(RULES["validation"]["locating"].split())
_BOX_TAGS = "|".join(re.escape(tag) for style in TAGS.values() for tag in style.values())
_CHAT = [
    re.compile(pattern.replace("BOX_TAGS", _BOX_TAGS).replace("REWORDED", RULES["chat"]["reworded"]), re.IGNORECASE)
    for pattern in (*RULES["chat"]["patterns"], RULES["chat"]["quoted"])
]
_TOKEN = re.compile(r"\d+(?:[.,]\d+)?|[^\W\d_]+(?:['’][^\W\d_]+)?")
_CHAT_MARKS = re.compile(r"<\|im_(?:start|end)\|>|```|\"candidates\"|\bas an ai\b", re.IGNORECASE)
_TAG = re.compile(_BOX_TAGS, re.IGNORECASE)
_TAGGED_BOX, _TAGGED_REFERENCE = (
    re.compile(
        "|".join(f"{re.escape(style[kind])}(.*?){re.escape(style['/' + kind])}" for style in TAGS.values()),
        re.IGNORECASE | re.DOTALL,
    )
    for kind in ("box", "ref")
)


def text_reasons(candidate: str, annotation: str) -> list[str]:
    """Why the text of a rewording may not be trained on, whatever it means; empty if it may.

    Args:
        candidate: The rewording.
        annotation: The ground truth. A trace of a chat that it has itself (a list, quotation marks) is allowed.

    Returns:
        ``control_text``: a special token, a media placeholder, or a control character; ``chat_text``: a preamble, a
        transcript, Markdown, markup, JSON, quotation marks around the whole.
    """
    has_image = IMAGE_PLACEHOLDER in candidate.lower()
    if has_image or special_token(candidate) or control_character(candidate, joiners=False):
        return ["control_text"]
    found = [pattern for pattern in _CHAT if pattern.search(candidate)]
    return ["chat_text"] if any(not pattern.search(annotation) for pattern in found) else []


def label_key(text: str) -> str:
    """The form in which two labels are compared: lower case, single spaces, no final punctuation."""
    return " ".join(text.casefold().split()).rstrip(" .!,;:")


def prompt_runs(prompt: str) -> frozenset[tuple[str, ...]]:
    """Every run of :data:`LEAK_WORDS` words of a prompt template."""
    words = _words(prompt)
    return frozenset(zip(*(words[start:] for start in range(LEAK_WORDS)), strict=False))


def candidate_similarities(
    candidates: Sequence[str], *, annotation: str, question: str, similarity: Similarity
) -> list[float]:
    """The similarity of each candidate to the ground truth, boxes and tags aside, in one batch.

    A ground truth of boxes alone has no words to compare. A candidate then scores 1 if it has only words of the
    question and of :data:`LOCATING_WORDS`, which add nothing but "it is here", else 0.
    """
    if strip_boxes(annotation):
        return text_similarity([annotation] * len(candidates), candidates, similarity)
    allowed = LOCATING_WORDS.union(_words(question))
    return [float(allowed.issuperset(_words(candidate))) for candidate in candidates]


def rejection_reasons(
    candidate: str,
    *,
    annotation: str,
    question: str,
    similarity: float,
    threshold: float,
    existing: Collection[str],
    leaks: Collection[tuple[str, ...]] = frozenset(),
) -> dict[str, str]:
    """Why a candidate may not replace the ground truth ``annotation``: codes and explanations; empty if it may.

    ``similarity`` comes from :func:`candidate_similarities`, ``leaks`` from :func:`prompt_runs`; ``existing`` labels
    have the form of :func:`label_key`. ``docs/correction.md`` lists the codes.
    """
    if not candidate.strip():
        return {"empty": "it has no text"}
    if is_too_long(candidate, annotation):
        return {"too_long": f"{len(candidate)} characters for {len(annotation)}"}

    true_words, words = _words(annotation), _words(candidate)
    new_runs = prompt_runs(candidate) - prompt_runs(f"{annotation}\n{question}")
    lengths = f"{len(words)} words for {len(true_words)}"
    checks = {
        "too_long": (len(words) > 2 * len(true_words) + 12, lengths),
        "too_short": (len(words) < len(true_words) / 2, lengths),
        "boxes": (_boxes_and_references(candidate) != _boxes_and_references(annotation), "boxes or references differ"),
        "tags": (not tags_balanced(candidate) or _tag_counts(candidate) != _tag_counts(annotation), "tags differ"),
        "similarity": (similarity < threshold, f"{similarity:.3f} is below {threshold}"),
        "existing_label": (label_key(candidate) in existing, "it is the ground truth of a row, or a correction"),
        "prompt_leak": (bool(_CHAT_MARKS.search(candidate) or new_runs & {*leaks}), "it has words of the prompt"),
    }
    reasons = {code: explanation for code, (rejected, explanation) in checks.items() if rejected}
    if strip_boxes(annotation):  # else candidate_similarities compares the words with the question's
        reasons |= meaning_differences(annotation, candidate, question)
    return reasons


def check_validation() -> None:
    """Raises the ImportError of the first library or file that :func:`rejection_reasons` lacks; loads no model."""
    require_english()
    wordnet_folder()
    for library in ("negspacy", "nltk", "pint"):
        if importlib.util.find_spec(library) is None:
            raise ImportError(
                f"The validation of rewordings needs {library}: pip install 'llamafactory-clinkd[correct]'."
            )


def is_too_long(candidate: str, annotation: str) -> bool:
    """Whether a candidate has so many characters that no model needs to score it."""
    return len(candidate) > 4 * len(annotation) + 200


def _words(text: str) -> list[str]:
    """The lower-case words and numbers of ``text`` without its boxes and tags, in order."""
    return _TOKEN.findall(strip_boxes(text).casefold())


def _boxes_and_references(text: str) -> tuple[list[str], list[str], list[str]]:
    """Box coordinates and tagged boxes, character for character, and the words between reference tags."""
    references = ["".join(match.groups(default="")) for match in _TAGGED_REFERENCE.finditer(text)]
    return box_strings(text), [match[0] for match in _TAGGED_BOX.finditer(text)], [label_key(r) for r in references]


def _tag_counts(text: str) -> Counter[str]:
    return Counter(tag.lower() for tag in _TAG.findall(text))
