# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Questions and answers for the four tasks, in Med-GRIT-270k's style; each answer states facts true of the picture."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation


QUESTIONS = {
    "VG": (
        "Where is the {ref} located in the image?",
        "Can you locate the {ref}?",
        "Please find the {ref} in the image.",
        "Which region shows the {ref}?",
    ),
    "ROC": (
        "What anatomical structure is present at the {box}?",
        "What is located at {box}?",
        "Which structure does {box} show?",
        "Can you name the structure at {box}?",
    ),
    "RC": (
        "Can you describe the content within the {box}?",
        "Please describe the region {box}.",
        "What can be seen within {box}? Describe it.",
    ),
    "MIA": (
        "What can you interpret from the overall image?",
        "Can you analyse this image?",
        "Please describe the whole image.",
        "What does the image show?",
    ),
}
SMALL, LARGE = 0.02, 0.06  # parts of the image
NEIGHBOUR_PIXELS = 2


@dataclass(frozen=True)
class Finding:
    """One structure as it appears in a picture.

    Attributes:
        name: Name of the structure.
        box: x1, y1, x2, y2 in thousandths.
        area: Its part of the picture, in [0, 1].
        neighbour: The structure that touches it along the longest border, or None.
    """

    name: str
    box: tuple[int, int, int, int]
    area: float
    neighbour: str | None


def box_text(box: tuple[int, int, int, int]) -> str:
    """A box with Qwen2-VL's tags, each number three digits wide.

    ``(012,345)`` reads as 12 and 345 everywhere; the fixed width spares a small model the alignment of digits, without
    which it hardly learnt to point.
    """
    x1, y1, x2, y2 = box
    return f"<|box_start|>({x1:03d},{y1:03d}),({x2:03d},{y2:03d})<|box_end|>"


def ref_text(name: str) -> str:
    """A name with Qwen2-VL's reference tags."""
    return f"<|object_ref_start|>{name}<|object_ref_end|>"


def place(box: tuple[int, int, int, int]) -> str:
    """Where the middle of a box is, on a 3 x 3 grid: ``upper left`` ... ``centre`` ... ``lower right``."""
    column = ("left", "middle", "right")[min((box[0] + box[2]) * 3 // 2000, 2)]
    row = ("upper", "middle", "lower")[min((box[1] + box[3]) * 3 // 2000, 2)]
    return "centre" if row == column else f"{row} {column}"


def size_word(area: float) -> str:
    """``small`` below 2 % of the picture, ``large`` from 6 %, else ``medium``."""
    return "small" if area < SMALL else "large" if area >= LARGE else "medium"


def neighbour_of(labels: np.ndarray, label: int) -> int | None:
    """The other label that most pixels within 2 pixels of ``label``'s mask have; ties go to the lower label.

    Args:
        labels: int ``[S, S]``, 0 is background.
        label: The label to look around.
    """
    mask = labels == label
    around = labels[binary_dilation(mask, iterations=NEIGHBOUR_PIXELS) & ~mask & (labels != 0)]
    return int(np.bincount(around).argmax()) if len(around) else None


def ask(rng: np.random.Generator, task: str, **words: str) -> str:
    """Draws one of the task's questions and fills it."""
    return str(rng.choice(QUESTIONS[task])).format(**words)


def grounding(rng: np.random.Generator, finding: Finding) -> list[str]:
    """VG: a name is asked for, a box is the answer."""
    return [ask(rng, "VG", ref=ref_text(finding.name)), box_text(finding.box)]


def classification(rng: np.random.Generator, finding: Finding) -> list[str]:
    """ROC: a box is asked about, the name is the answer."""
    return [ask(rng, "ROC", box=box_text(finding.box)), finding.name.capitalize()]


def caption(rng: np.random.Generator, finding: Finding, plane: str, title: str) -> list[str]:
    """RC: a box is asked about; name, plane, size, place and neighbour are the answer."""
    answer = f"The region shows the {finding.name} in {article(plane)} {title}. It is {size_word(finding.area)} "
    answer += f"and lies in the {place(finding.box)} of the image"
    answer += f", next to the {finding.neighbour}." if finding.neighbour else "."
    return [ask(rng, "RC", box=box_text(finding.box)), answer]


def analysis(rng: np.random.Generator, view: str, shows: list[str]) -> list[str]:
    """MIA: what kind of picture it is and which structures, largest first, it shows."""
    listed = [f"the {name}" for name in shows]
    text = listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}"
    return [ask(rng, "MIA"), f"This is {article(view)}. It shows {text}."]


def article(words: str) -> str:
    """``axial brain MRI`` -> ``an axial brain MRI``."""
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"
