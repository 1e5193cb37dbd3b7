# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What answers were like: how good each is, which labels are taken for which others, and what runs differ in."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluate.answer_words import answer_words
from ..evaluate.compare import add_holm, compare_predictions
from ..evaluate.grounding import label_found, references
from ..evaluate.java import kept_meteor
from ..evaluate.vqa import CLOSED, answer_type, closed_is_right, open_scores
from ..utils.boxes import VQA, iou_matrix, parse_boxes, strip_boxes
from .load import RunData


LABELS = 8  # in the confusion table
OTHER_LABELS, NO_LABEL = "other labels", "none of them"


def row_quality(row: Mapping[str, Any]) -> float:
    """How good one answer is, in [0, 1]: mean IoU, label found, closed question right, or F1 of the words."""
    response, truths = row["response"], references(dict(row))
    if row["task"] == "VG":
        targets, predicted = [box for text in truths for box in parse_boxes(text)], parse_boxes(response)
        return float(iou_matrix(targets, predicted[: len(targets)]).max(axis=1).mean()) if predicted else 0.0
    if row["task"] == "ROC":
        return float(any(label_found(truth, response) for truth in truths))
    if row["task"] == VQA and answer_type(row) == CLOSED:
        return float(closed_is_right(response, truths, row.get("choices") or ()))
    return max(open_scores(strip_boxes(response), strip_boxes(truth))[1] for truth in truths)


def confusion(run: RunData) -> dict[str, Any] | None:
    """How often each label of ROC was answered for each, of the most frequent labels; None without rows.

    An answer counts as the label of the test set that it has; of several as the true one, else the longest.

    Returns:
        ``labels`` of the columns, and ``rows``: (true label, its number, counts by column).
    """
    pairs = [
        (" ".join(answer_words(strip_boxes(row["annotation"]))), " ".join(answer_words(strip_boxes(row["response"]))))
        for row in run.predictions
        if row["task"] == "ROC"
    ]
    if not pairs:
        return None
    frequency = Counter(truth for truth, _ in pairs)
    by_length = sorted(frequency, key=lambda label: (-len(label), label))
    counts: Counter[tuple[str, str]] = Counter()
    shown = [label for label, _ in frequency.most_common(LABELS)]
    for truth, answer in pairs:
        found = next((label for label in (truth, *by_length) if label and f" {label} " in f" {answer} "), NO_LABEL)
        counts[tuple(label if label in (*shown, NO_LABEL) else OTHER_LABELS for label in (truth, found))] += 1
    rest = [OTHER_LABELS] if len(frequency) > len(shown) else []
    columns = [*shown, *rest, NO_LABEL]
    rows = [(label, [counts[label, column] for column in columns]) for label in (*shown, *rest)]
    return {"labels": columns, "rows": [(label, sum(row), row) for label, row in rows]}


@kept_meteor()
def comparisons(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Each further run minus the first, by :func:`~..evaluate.compare_predictions`, or the ``problem``.

    ``p_holm`` is among the comparisons of all runs.
    """
    found = []
    for run in runs[1:]:
        protocols = {(each.metrics or {}).get("protocol", "present") for each in (runs[0], run)}
        try:
            view = compare_predictions(run.predictions, runs[0].predictions, protocol=min(protocols))[0]
            view["problem"] = None
        except (ValueError, ImportError) as error:
            view = {"problem": str(error)}
        found.append(view | {"name": f"{run.name} minus {runs[0].name}"})
    add_holm([view for view in found if not view["problem"]])
    return found
