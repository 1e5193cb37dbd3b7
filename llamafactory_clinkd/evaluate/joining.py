# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Stock LLaMA-Factory's predictions beside the data set that they were made on.

``generated_predictions.jsonl`` holds ``prompt``, ``predict`` and ``label`` in the order of the data set, without
image, task or modality, and by default without the special tokens that Qwen2-VL's tags are. The data set has all of
these.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..utils.boxes import TAGS
from .predictions import Unreadable


_MARKS = re.compile("|".join(re.escape(tag) for tags in TAGS.values() for tag in tags.values()) + r"|\s+")


def join_dataset(predictions: Sequence[Any], dataset: Sequence[Any]) -> list[Any]:
    """Rows of the shared vocabulary: everything but the response from the data set's row of the same place.

    Args:
        predictions: Rows with ``predict`` and ``label``; what is not an object is kept as it is.
        dataset: The ShareGPT rows (``messages``, ``images``) they were made on; it may go on beyond them, as with
            ``max_samples``.

    Raises:
        ValueError: If there are more predictions than rows, a row is no conversation, or a label is not the beginning
            of its row's last answer (tags and blanks aside): then these are not the rows that were predicted.
    """
    if len(predictions) > len(dataset):
        raise ValueError(
            f"There are {len(predictions)} predictions, the data set has {len(dataset)} rows: give the file that was "
            "the recipe's `eval_dataset`."
        )
    return [_joined(number, *pair) for number, pair in enumerate(zip(predictions, dataset, strict=False), start=1)]


def _joined(number: int, prediction: Any, row: Any) -> Any:
    if isinstance(prediction, Unreadable) or not isinstance(prediction, Mapping):
        return prediction
    if "predict" not in prediction or not isinstance(prediction.get("label"), str):
        raise ValueError(
            f"Row {number} of the predictions has no `predict` and `label`: a data set goes with LLaMA-Factory's "
            "generated_predictions.jsonl only; other formats hold image and task themselves."
        )
    messages = row.get("messages") if isinstance(row, Mapping) else None
    spoken = [m for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []
    if len(spoken) < 2 or not all(isinstance(message.get("content"), str) for message in spoken[-2:]):
        raise ValueError(f"Row {number} of the data set is no conversation: expected `messages` as in Table A1.")
    question, answer = (message["content"] for message in spoken[-2:])
    label = _MARKS.sub("", prediction["label"])
    if not label or not _MARKS.sub("", answer).startswith(label):
        raise ValueError(
            f"Row {number}: the label {prediction['label'][:60]!r} is not the data set's answer {answer[:60]!r}. Give "
            "the file that was the recipe's `eval_dataset`; a row that stock dropped (an image that is absent, a turn "
            "too many) shifts all after it."
        )
    images = row.get("images")
    return {
        "id": row.get("id"),
        "image": images[0] if isinstance(images, list) and images else None,
        "question": question.replace("<image>", "").strip(),
        "annotation": answer,
        "response": prediction["predict"],
        "task": row["task"] if len(spoken) <= 3 and row.get("task") != "MIXED" and "task" in row else None,
        "modality": row.get("modality"),
    }
