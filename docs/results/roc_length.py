# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""How long the ROC answers of runs are, and their recall if only the structure that an answer names first counts.

``python docs/results/roc_length.py runs/reproduce/mini/clinkd-seed? ...`` prints a Markdown table, means over seeds.
BiRD's recall asks whether the label's words occur anywhere in the answer, so that an answer that names more is right
more often.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from llamafactory_clinkd.evaluate.grounding import label_found
from llamafactory_clinkd.utils.io import read_jsonl


OPENING = re.compile(
    r"^(the region shows|this is|the marked region is|it is|there is)\s+(the |a |an )?", re.IGNORECASE
)
END = re.compile(r" in an? |\.|, ")


def first_named(answer: str) -> str:
    """The structure that an answer of the miniature names first: what is before ``in a ...``, a stop or a comma."""
    return END.split(OPENING.sub("", answer))[0]


def measure(folder: Path) -> tuple[float, float, float]:
    """Mean words of a ROC answer; recall and recall of the first named, percent, means over modalities."""
    rows = [row for row in read_jsonl(folder / "clinkd" / "predictions.jsonl") if row["task"] == "ROC"]
    groups = [[row for row in rows if row["modality"] == name] for name in sorted({row["modality"] for row in rows})]
    whole = fmean(fmean(label_found(row["annotation"], row["response"]) for row in group) for group in groups)
    first = fmean(
        fmean(label_found(row["annotation"], first_named(row["response"])) for row in group) for group in groups
    )
    return fmean(len(row["response"].split()) for row in rows), 100 * whole, 100 * first


def of_rows(folders: Iterable[Path]) -> dict[str, list[tuple[float, float, float]]]:
    """Row -> what :func:`measure` gives for each of its runs."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for folder in folders:
        found.setdefault(re.sub(r"-seed\d+$", "", folder.name), []).append(measure(folder))
    return found


if __name__ == "__main__":
    print("| row | words of a ROC answer | ROC | ROC, first named | seeds |\n| :-- | --: | --: | --: | --: |")
    for row, seeds in of_rows(map(Path, sys.argv[1:])).items():
        means = [fmean(values) for values in zip(*seeds, strict=True)]
        print(f"| `{row}` | {' | '.join(f'{value:.1f}' for value in means)} | {len(seeds)} |")
