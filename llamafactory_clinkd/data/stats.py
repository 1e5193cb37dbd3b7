# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""`clinkd data stats`: counts of turns, tasks, modalities, lengths, boxes and image sizes, in one pass."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.boxes import IMAGE_PLACEHOLDER, box_strings, task_of
from ..utils.environment import require_library
from ..utils.pixels import opened, picture_size
from .images import known_modality, path_within
from .problems import Reject
from .reader import read_rows
from .sharegpt import as_list


_WORD = re.compile(r"\w+")
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def statistics(
    path: str | Path, *, image_folder: str | Path | None = None, on_rows: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Counts a ShareGPT file; an image is counted once, a question with its answer as one turn.

    The JSON-able result has ``rows``, ``turns``, ``images``, ``unreadable_rows``; ``modalities`` and ``tasks`` (turns
    of each), ``modality_tasks`` (modality -> task -> turns); ``question_words``, ``answer_words`` and
    ``boxes_per_answer`` (value -> turns), the lengths also as ``..._quantiles``; ``image_sizes`` (``"w x h"`` ->
    images; header only) and ``images_unread``. Sizes are empty without ``image_folder``.
    """
    rows = unreadable = 0
    turns, modalities, tasks, boxes = Counter(), Counter(), Counter(), Counter()  # turns are by modality and task
    lengths: dict[str, Counter[int]] = {"question_words": Counter(), "answer_words": Counter()}
    images: dict[str, None] = {}
    for number, row in read_rows(path):
        if on_rows and number % 1000 == 0:
            on_rows(number)
        if isinstance(row, Reject) or not (row_turns := list(_turns(row))):
            unreadable += 1
            continue
        rows += 1
        paths = [image for image in as_list(row.get("images")) if isinstance(image, str)]
        images |= dict.fromkeys(paths)
        modality = known_modality(row.get("modality"), paths[0] if paths else None)
        for question, answer in row_turns:
            task = row.get("task") if len(row_turns) == 1 else None
            task = task if isinstance(task, str) else task_of(question, answer)
            turns[modality, task] += 1
            modalities[modality] += 1
            tasks[task] += 1
            lengths["question_words"][len(_WORD.findall(question.replace(IMAGE_PLACEHOLDER, "")))] += 1
            lengths["answer_words"][len(_WORD.findall(answer))] += 1
            boxes[len(box_strings(answer))] += 1

    sizes, unread = image_sizes(image_folder, images) if image_folder is not None else (Counter(), 0)
    totals = {"rows": rows, "turns": turns.total(), "images": len(images), "unreadable_rows": unreadable}
    result: dict[str, Any] = totals | {
        "modalities": dict(modalities.most_common()),
        "tasks": dict(tasks.most_common()),
        "modality_tasks": {m: {t: turns[m, t] for t in tasks if turns[m, t]} for m in modalities},
    }
    for name, counter in lengths.items():
        result[name] = dict(sorted(counter.items()))
        values = list(counter.elements())
        quantiles = np.percentile(values, QUANTILES, method="inverted_cdf").tolist() if values else []
        result[f"{name}_quantiles"] = dict(zip(QUANTILES, quantiles, strict=False))
    result["boxes_per_answer"] = dict(sorted(boxes.items()))
    return result | {"image_sizes": dict(sizes.most_common()), "images_unread": unread}


def image_sizes(folder: str | Path, images: Iterable[str]) -> tuple[Counter[str], int]:
    """Sizes in pixels, from the headers, and the number of images that do not open or are outside the folder."""
    sizes: Counter[str] = Counter()
    images = list(images)
    for image in images:
        with suppress(OSError, ValueError), opened(path_within(folder, image)) as header:  # `check` reports the cause
            sizes["{} x {}".format(*picture_size(header))] += 1
    return sizes, len(images) - sizes.total()


def draw_modalities(modalities: dict[str, int], path: str | Path) -> None:
    """Draws the pie of the paper's Figure A1 as PNG, from the turns of each modality; needs matplotlib."""
    total = sum(modalities.values())
    if not total:
        raise ValueError("No turn was counted, so there are no proportions to draw.")
    require_library("matplotlib", "eval", "The figure needs")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ordered = dict(sorted(modalities.items(), key=lambda item: (-item[1], item[0])))
    figure = Figure(figsize=(7, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    wedges, _ = axes.pie(list(ordered.values()), startangle=90, counterclock=False, wedgeprops={"edgecolor": "white"})
    labels = [f"{name}: {count / total:.1%} ({count:,})" for name, count in ordered.items()]
    figure.legend(wedges, labels, loc="outside right center", frameon=False)
    axes.set_title("Proportions of modalities")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _turns(row: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """(question, answer) of each turn; a malformed row has fewer or none."""
    messages = row["messages"] if isinstance(row.get("messages"), list) else []
    dialogue = [m for m in messages if isinstance(m, dict) and m.get("role") in ("user", "assistant")]
    for question, answer in zip(dialogue[::2], dialogue[1::2], strict=False):
        if isinstance(question.get("content"), str) and isinstance(answer.get("content"), str):
            yield question["content"], answer["content"]
