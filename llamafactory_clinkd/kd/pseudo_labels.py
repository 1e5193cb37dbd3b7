# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which rows the teacher labels, and ``pseudo_labels.jsonl``, its answers and the student's targets."""

from pathlib import Path
from typing import Any

from ..utils.io import content_hash, read_jsonl, write_jsonl


Rows = list[dict[str, Any]]


def seeded_subset(size: int, wanted: int, seed: int, purpose: str) -> list[int]:
    """``min(wanted, size)`` distinct row numbers, ascending; drawn by a hash, so the same on every machine."""
    if wanted >= size:
        return list(range(size))
    order = sorted(range(size), key=lambda index: content_hash([seed, purpose, index]))
    return sorted(order[:wanted])


def write_pseudo_labels(path: Path, described: Rows, answers: Rows) -> dict[str, float]:
    """Writes each row with its answer from :func:`llamafactory_clinkd.generation.generate_rows`; counts the labels."""
    rows = []
    for row, answer in zip(described, answers, strict=True):
        best = answer["candidates"][0] if answer["candidates"] else {"text": None, "logprob": None}
        rows.append({**row, "pseudo_label": best["text"], "logprob": best["logprob"], "error": answer.get("error")})
    write_jsonl(path, rows)
    return {"labelled": sum(row["pseudo_label"] is not None for row in rows)}


def read_pseudo_labels(path: Path) -> dict[str, str | None]:
    """``key -> pseudo-label``, None where the teacher had no answer. FileNotFoundError if the phase did not run."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: run phase pseudo_label first (add it to `clinkd_phases`).")
    return {row["key"]: row["pseudo_label"] for row in read_jsonl(path)}
