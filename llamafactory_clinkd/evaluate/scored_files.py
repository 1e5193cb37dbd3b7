# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Scores of a file of predictions, beside the blind answers that its training rows give."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..utils.io import read_json
from .blind import blind_scores, tasks_without_blind
from .compare import compare_predictions
from .exchange import export_rows
from .java import kept_meteor
from .prediction_files import join_dataset, load_rows
from .predictions import read_rows
from .scoring import evaluate_predictions


@kept_meteor()
def evaluate_file(
    path: str | Path,
    *,
    against: str | Path | None = None,
    export: tuple[str, str | Path] | None = None,
    answers: str | Path | None = None,
    dataset: str | Path | None = None,
    train: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """:func:`.scoring.evaluate_predictions` of a file.

    ``against`` has the answers to compare with (:func:`.compare.compare_predictions`; the metrics then have a
    ``comparison``), and ``export`` a tool and the file to write for it (:mod:`.exchange`). ``answers`` is the file of
    answers to a question file, and so is ``against`` then. ``dataset`` is the ShareGPT file that LLaMA-Factory's
    ``generated_predictions.jsonl`` was made on; without it that format has no modalities. With the training rows of
    ``train`` (ShareGPT, or rows of questions and answers), the metrics have the blind answers as ``baselines``, and
    the rows that they are made of as ``baselines_from``.
    """
    rows = _rows(path, answers, dataset)
    if export is not None:
        export_rows(read_rows(rows).rows, export[0], Path(export[1]))
    if against is None:
        metrics = evaluate_predictions(rows, **options)
    else:
        others = _rows(path, against, dataset) if answers is not None else _rows(against, None, dataset)
        comparison, metrics, _ = compare_predictions(rows, others, with_selection=True, **options)
        metrics["comparison"] = comparison
    if train is None:
        return metrics
    if options.pop("protocol", "present") == "released":
        return metrics | {"notes": [*metrics["notes"], "The released code has no blind answers: use `present`."]}
    train_rows = load_rows(train)
    metrics["baselines"] = blind_scores(train_rows, rows, **options)
    metrics["baselines_from"] = rows_named(train_rows, Path(train).name)
    return metrics | {"notes": [*metrics["notes"], *tasks_without_blind(metrics, train_rows)]}


def rows_named(rows: Sequence[Any], name: str) -> str:
    """How many rows of what, for those that blind answers are made of."""
    return f"{len(rows):,} {'row' if len(rows) == 1 else 'rows'} of {name}"


def _rows(path: str | Path, answers: str | Path | None, dataset: str | Path | None) -> list[Any]:
    rows = load_rows(path, answers)
    return rows if dataset is None else join_dataset(rows, load_rows(dataset))


def training_rows(names: Sequence[str], dataset_dir: str | Path) -> list[Any]:
    """The rows of data sets of ``dataset_info.json``.

    Raises:
        ValueError: If a data set is not a local file of ShareGPT ``messages``.
        FileNotFoundError: If a file does not exist.
    """
    entries, rows = read_json(Path(dataset_dir, "dataset_info.json")), []
    for name in names:
        entry = entries.get(name) or {}
        columns = entry.get("columns") or {}
        if "file_name" not in entry or columns.get("messages", "messages") != "messages":
            raise ValueError(f"data set {name!r} is not a local file of `messages`")
        path = Path(dataset_dir, entry["file_name"])
        if not path.is_file():
            raise FileNotFoundError(f"data set {name!r}: {path} is not a file")
        rows += load_rows(path)
    return rows
