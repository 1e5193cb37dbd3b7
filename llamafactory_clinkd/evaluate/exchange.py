# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Result files of VLMEvalKit and lmms-eval: read into rows of predictions, and written from them.

VLMEvalKit (``vlmeval/inference.py``, ``smp/file.py``) writes the columns of its data set (``index``, ``question``,
``answer``, the choices ``A`` to ``H``, ``image_path``, ...) and ``prediction`` as .xlsx, .tsv or .json. lmms-eval
(``loggers/evaluation_tracker.py``) writes a line with ``doc_id``, ``target``, ``filtered_resps`` and ``input`` for
each question; older versions have ``doc`` too. Columns that the tools do not have, such as ``task`` and ``modality``,
are written as further ones, which they do not read.
"""

import ast
import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..utils.boxes import TASKS, VQA, has_box
from ..utils.environment import require_library
from ..utils.io import atomic_path, write_json, write_jsonl
from .grounding import references
from .vqa import CLOSED, answer_type


TOOLS = {"vlmevalkit": (".xlsx", ".tsv", ".json"), "lmms-eval": (".jsonl",)}
TABLES = (".xlsx", ".tsv")
_LETTERS = "ABCDEFGH"
_FAILED = "Failed to obtain answer"  # what VLMEvalKit has in the place of an answer
_MAX_CELL = 32_767  # characters that a cell of an .xlsx file takes
_UNFIT = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f]")  # characters that XML has not
_OURS = ("annotation", "annotations", "response", "candidates", "question", "choices", "image")  # renamed


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of an .xlsx or .tsv file, every cell as text.

    Raises:
        ImportError: If openpyxl is not installed; the message names the extra.
    """
    import pandas

    _require_openpyxl(path)
    options = {"dtype": str, "na_filter": False}  # "NA" and "None" are answers
    if path.suffix.lower() == ".xlsx":
        return pandas.read_excel(path, **options).to_dict("records")
    return pandas.read_csv(path, sep="\t", encoding="utf-8-sig", **options).to_dict("records")


def from_other_tool(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of either tool with our column names; any other row unchanged.

    A row without one of our tasks is VG if its answer is a box, else VQA. What VLMEvalKit writes for an answer that it
    did not get is no answer.
    """
    if {"index", "question", "prediction"} <= raw.keys():
        choices = [text for letter in _LETTERS if (text := _text(raw.get(letter)))]
        failed = str(raw["prediction"]).startswith(_FAILED)
        named = {"id": raw["index"], "image": raw.get("image_path"), "choices": choices or None}
        named |= {"response": None if failed else raw["prediction"]}
        own, truth = {key: value for key, value in raw.items() if key != "image" and value != ""}, raw.get("answer")
    elif {"doc_id", "target", "filtered_resps"} <= raw.keys():
        own, truth = dict(raw["doc"]) if isinstance(raw.get("doc"), Mapping) else {}, raw["target"]
        named = {"id": raw["doc_id"], "question": _first_text(raw.get("input"))}
        own |= {"response": _first_text(raw["filtered_resps"])}
    else:
        return raw
    texts = _texts(truth)
    row = {**named, **own, "annotation": texts[0], "annotations": texts if len(texts) > 1 else None}
    is_ours = str(row.get("task")).upper() in (*TASKS, VQA)
    return row if is_ours else row | {"task": "VG" if has_box(str(texts[0])) else VQA}


def check_documents(rows: Sequence[Any], path: str | Path) -> None:
    """Raises ValueError if a file of lmms-eval has a question several times, once for each filter of its task."""
    found = Counter(row["doc_id"] for row in rows if isinstance(row, Mapping) and "filtered_resps" in row)
    if repeated := sum(count > 1 for count in found.values()):
        raise ValueError(
            f"{path} has {repeated:,} of {len(found):,} doc_id several times, as lmms-eval writes for a task with "
            "several filters: keep the rows of one filter."
        )


def export_rows(rows: Sequence[Mapping[str, Any]], tool: str, path: Path) -> None:
    """Writes rows of the shared vocabulary as a result file of ``tool``.

    Raises:
        ValueError: If the tool or the file's ending is unknown, or a text does not fit into a cell of .xlsx.
    """
    if path.suffix.lower() not in TOOLS.get(tool, ()):
        expected = "; ".join(f"{name} ({', '.join(endings)})" for name, endings in TOOLS.items())
        raise ValueError(f"Found {tool!r} and {path.name!r}: expected a tool and a file with its ending: {expected}.")
    if tool == "lmms-eval":
        write_jsonl(path, [_lmms_eval_row(number, row) for number, row in enumerate(rows)])
        return
    table = [_vlmevalkit_row(number, row) for number, row in enumerate(rows)]
    if path.suffix.lower() == ".json":
        write_json(path, table)
    else:
        _write_table(path, table)


def _vlmevalkit_row(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    answers, choices = references(dict(row)), row.get("choices") or []
    if choices and answer_type(row) == CLOSED:
        answers = [_LETTERS[choices.index(text)] if text in choices else text for text in answers]
    options = dict(zip(_LETTERS, choices, strict=False))
    named = {"index": number, "question": row["question"], **options, "answer": _as_text(answers)}
    named |= {"image_path": row["image"], "prediction": row["response"]}
    return named | {key: value for key, value in row.items() if key not in _OURS and value is not None}


def _lmms_eval_row(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    doc = {key: value for key, value in row.items() if key not in ("candidates", "response") and value is not None}
    text = json.dumps(doc, indent=2, ensure_ascii=False)
    named = {"doc_id": number, "doc": doc, "target": _as_text(references(dict(row)))}
    named |= {"filtered_resps": [row["response"]], "doc_hash": hashlib.sha256(text.encode()).hexdigest()}
    return named | {"input": row["question"]}


def _write_table(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    import pandas

    _require_openpyxl(path)
    frame = pandas.DataFrame(table)
    with atomic_path(path) as part:
        if path.suffix.lower() == ".tsv":
            frame.to_csv(part, sep="\t", index=False, quoting=csv.QUOTE_ALL)
            return
        for number, row in enumerate(table, start=1):
            for name, value in row.items():
                if isinstance(value, str) and (len(value) > _MAX_CELL or _UNFIT.search(value)):
                    raise ValueError(f"Row {number}: {name} does not fit into an .xlsx cell: write .tsv or .json.")
        with pandas.ExcelWriter(part, engine="openpyxl") as writer:
            frame.to_excel(writer, index=False)
            for cell in (cell for line in writer.sheets["Sheet1"].iter_rows() for cell in line):
                cell.data_type = "s" if cell.data_type == "f" else cell.data_type  # "=1" is an answer, no formula


def _require_openpyxl(path: Path) -> None:
    if path.suffix.lower() == ".xlsx":
        require_library("openpyxl", "eval", f"{path} needs")


def _as_text(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else str(list(texts))


def _texts(truth: Any) -> list[Any]:
    """The ground truths that a tool wrote: a list, or the text of one, as ``str`` makes it."""
    if isinstance(truth, str) and truth.startswith("[") and truth.endswith("]"):
        try:
            found = ast.literal_eval(truth)
        except (ValueError, SyntaxError):
            return [truth]  # a text in brackets
        truth = found if found and all(isinstance(text, str) for text in found) else truth
    return [_text(text) for text in (truth if isinstance(truth, list) and truth else [truth])]


def _text(value: Any) -> Any:
    """A number as text, and None for the NaN that pandas has in the place of nothing."""
    if isinstance(value, float) and value != value:
        return None
    return str(value) if isinstance(value, int | float) else value


def _first_text(value: Any) -> str | None:
    """The first text of nested lists."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return value if isinstance(value, str) else None
