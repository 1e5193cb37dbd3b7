# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The cases of ``growth.py``: synthetic files of a run, and what the same command runs over them when it continues."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any


MISSING = 10  # rows that are still to do
SHARD_ROWS = 2000  # of the teacher cache
IMAGES = 1000
HALF = 5_000_000  # rows at most where a case writes its files twice


def key(number: int) -> str:
    """The key of a row in a data set."""
    return f"{number}:ct_{number:08d}"


def write_lines(path: Path, lines: Iterator[str]) -> None:
    """Writes lines without `llamafactory_clinkd`."""
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(lines)


def make_data(folder: Path, rows: int) -> None:
    """A ShareGPT array, about 190 bytes a row, whose rows name 1,000 files."""
    for number in range(IMAGES):
        (folder / f"ct_{number:04d}.png").write_bytes(b"x")
    with open(folder / "data.json", "w", encoding="utf-8") as f:
        for n in range(rows):
            f.write(
                f'{"," if n else "["}\n{{"id": "ct_{n:08d}", "messages": [{{"role": "user", "content": "<image>Where '
                f'{n}?"}}, {{"role": "assistant", "content": "Left {n}."}}], "images": ["ct_{n % IMAGES:04d}.png"]}}'
            )
        f.write("]\n")
    info = {"rows": {"file_name": "data.json", "formatting": "sharegpt", "columns": {"images": "images"}}}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def make_aligned(folder: Path, rows: int) -> None:
    """An Arrow file with the columns of LLaMA-Factory's aligned rows, and eight tokens a row."""
    import numpy as np
    import pyarrow as pa

    def turns(role: str, texts: pa.Array) -> pa.Array:
        roles = pa.array([role] * len(texts))
        offsets = pa.array(np.arange(len(texts) + 1, dtype=np.int32))
        return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([roles, texts], ["role", "content"]))

    writer = None
    for start in range(0, rows, 10_000):
        numbers = range(start, min(rows, start + 10_000))
        one = pa.array(np.arange(len(numbers) + 1, dtype=np.int32))
        tokens = pa.array(np.arange(8 * len(numbers), dtype=np.int32) % 1000)
        labels = pa.array(np.where(np.arange(8 * len(numbers)) % 8 < 4, -100, 7).astype(np.int32))
        eight = pa.array(np.arange(len(numbers) + 1, dtype=np.int32) * 8)
        batch = pa.record_batch({
            "_prompt": turns("user", pa.array([f"<image>Where {n}?" for n in numbers])),
            "_response": turns("assistant", pa.array([f"Left {n}." for n in numbers])),
            "_images": pa.ListArray.from_arrays(one, pa.array([f"ct_{n % IMAGES:04d}.png" for n in numbers])),
            "_clinkd_id": pa.array([f"ct_{n:08d}" for n in numbers]),
            "_clinkd_task": pa.array([""] * len(numbers)),
            "_clinkd_modality": pa.array(["ct"] * len(numbers)),
            "input_ids": pa.ListArray.from_arrays(eight, tokens),
            "labels": pa.ListArray.from_arrays(eight, labels),
        })  # fmt: skip
        writer = writer or pa.ipc.new_stream(str(folder / "aligned.arrow"), batch.schema)
        writer.write_batch(batch)
    writer.close()


def make_answers(folder: Path, rows: int) -> None:
    """The files of two ranks that generated, 95 bytes a row, interleaved as batches are."""
    for rank in (0, 1):
        numbers = range(rank, rows - MISSING, 2)
        write_lines(folder / f"answers.jsonl.rank{rank}", (
            f'{{"id": "{key(n)}", "candidates": [{{"text": "Left {n}.", "logprob": -0.25}}], "tokens": 4}}\n'
            for n in numbers
        ))  # fmt: skip


def make_labels(folder: Path, rows: int) -> None:
    """`pseudo_labels.jsonl`, about 190 bytes a row."""
    write_lines(folder / "pseudo_labels.jsonl", (
        f'{{"key": "{key(n)}", "id": "ct_{n:08d}", "image": "ct_{n % IMAGES:04d}.png", "question": "Where {n}?", '
        f'"annotation": "Left {n}.", "task": "ROC", "modality": "ct", "pseudo_label": "Left {n}.", "logprob": -0.25, '
        f'"error": null}}\n'
        for n in range(rows)
    ))  # fmt: skip


def corrected_row(n: int) -> dict[str, Any]:
    """A row to judge."""
    return {
        "id": key(n), "image": f"ct_{n % IMAGES:04d}.png", "question": f"Where {n}?", "annotation": f"Left {n}.",
        "response": f"Left {n}.",
    }  # fmt: skip


class Same:
    """A similarity that finds every answer right."""

    name = "same"

    def scores(self, a: list[str], b: list[str]) -> list[float]:
        """One for each pair."""
        return [1.0] * len(a)


class Nobody:
    """A corrector without work."""

    name, prompt_text = "nobody", ""

    def start_round(self, usage: Any) -> None:
        """Keeps the usage."""
        self.usage = usage


def run_round(folder: Path, rows: int) -> Any:
    """One round of Reflective Correction."""
    from llamafactory_clinkd.correct import correct_round
    from llamafactory_clinkd.utils.row_index import ComputedRows

    labels = (f"Left {n}." for n in range(rows))
    options = {"similarity": Same(), "corrector": Nobody(), "existing_labels": labels}
    return correct_round(ComputedRows(corrected_row, range(rows)), out_path=folder / "round-1.jsonl", **options)


class First:
    """A scorer that prefers the first candidate."""

    name = short_name = "first"
    identity = {"name": "first"}
    reads_images = False

    def score_rows(self, rows: list[dict[str, Any]]) -> list[Any]:
        """Falling scores."""
        from llamafactory_clinkd.select.image_scores import RowScores

        return [
            RowScores([-float(i) for i in range(len(r["candidates"]))], [None] * len(r["candidates"])) for r in rows
        ]


def candidate_row(n: int) -> dict[str, Any]:
    """A row with one candidate, to rank."""
    return {"id": key(n), "annotation": f"Left {n}.", "candidates": [{"text": f"Left {n}.", "logprob": -0.25}]}


def rank_rows(folder: Path, rows: int) -> Any:
    """Ranks the rows."""
    from llamafactory_clinkd.select import select_rows
    from llamafactory_clinkd.utils.row_index import ComputedRows

    return select_rows(ComputedRows(candidate_row, range(rows)), First(), None, out_path=folder / "p.jsonl")


def make_part(folder: Path, rows: int) -> None:
    """The part file of an interrupted ranking, from the package's own of one row."""
    from llamafactory_clinkd.utils.io import content_hash

    def ranked(n: int) -> dict[str, Any]:
        row = candidate_row(n)
        row["candidates"][0] |= {"score": 0.0, "rank": 1}
        return row | {"response": row["candidates"][0]["text"], "scorer": "first"}

    part = folder / f"p.jsonl.{content_hash([First.identity, 'auto'])[:12]}.part"
    write_lines(part, (json.dumps(ranked(n)) + "\n" for n in range(rows - MISSING)))


def make_round(folder: Path, rows: int) -> None:
    """The file of a round that ended before its last row."""
    run_round(folder, rows)
    path = folder / "round-1.jsonl"
    with open(path, "r+b") as f:
        f.truncate(f.seek(-20, os.SEEK_END))


def make_cache(folder: Path, rows: int) -> None:
    """Shards of a teacher cache with one number a row."""
    import hashlib

    import torch

    from llamafactory_clinkd.kd.teacher_cache import HiddenCache

    cache = HiddenCache(folder / "cache", teacher="t", hidden_size=1, shard_bytes=2 * SHARD_ROWS)
    value = torch.zeros(1, 1, dtype=torch.bfloat16)
    for n in range(rows):
        cache.put(hashlib.sha256(str(n).encode()).hexdigest(), value)
    cache.flush()


def run_data(folder: Path, rows: int) -> Any:
    """What every phase records of its data: hash, repeated keys, media; in a new run."""
    from llamafactory_clinkd.phases.content import ContentHashes, dataset_fingerprint

    data = SimpleNamespace(dataset_dir=str(folder), media_dir=str(folder), max_samples=None)
    hashes = ContentHashes(folder / "content_hashes.json")
    found = dataset_fingerprint(["rows"], data, hashes)["data_media"]["rows"].split()[0]
    hashes.save()
    return found


def run_data_again(folder: Path, rows: int) -> Any:
    """The same in a run that continues."""
    return run_data(folder, rows)


def run_count(folder: Path, rows: int) -> Any:
    """`clinkd doctor --plan`: the number of rows."""
    from llamafactory_clinkd.doctor.recipe_spec import _rows_in

    return _rows_in(folder / "data.json")


def run_rows(folder: Path, rows: int) -> Any:
    """The start of a phase: rows without question or answer, keys, lengths, batches, supervised tokens."""
    from datasets import Dataset

    from llamafactory_clinkd.generation.generate import plan_batches
    from llamafactory_clinkd.phases.distill_served import supervised_tokens
    from llamafactory_clinkd.training.tracked_data import DescribedRows, TrackedData, list_lengths

    aligned = TrackedData().choose(Dataset.from_file(str(folder / "aligned.arrow")), False)
    keys = DescribedRows(aligned).keys()
    batches = plan_batches(list_lengths(aligned, "input_ids"), 8)
    return len(keys), len(batches), supervised_tokens(aligned)


def run_describe(folder: Path, rows: int) -> Any:
    """All rows as the correction and the prediction read them, once."""
    from datasets import Dataset

    from llamafactory_clinkd.training.tracked_data import DescribedRows

    return sum(len(row["question"]) > 0 for row in DescribedRows(Dataset.from_file(str(folder / "aligned.arrow"))))


def run_generation(folder: Path, rows: int) -> Any:
    """Generation that continues: what is done, what is left."""
    from llamafactory_clinkd.generation.shards import read_shards
    from llamafactory_clinkd.utils.row_index import RowNumbers, Texts

    return int(read_shards(folder / "answers.jsonl", RowNumbers(Texts(map(key, range(rows))))).good.sum())


def run_merge(folder: Path, rows: int) -> Any:
    """The end of generation: the ranks' files in order, and all answers once."""
    from llamafactory_clinkd.generation.shards import merge_shards
    from llamafactory_clinkd.utils.io import JsonlRows
    from llamafactory_clinkd.utils.row_index import RowNumbers, Texts

    done = rows - MISSING
    merge_shards(folder / "answers.jsonl", RowNumbers(Texts(map(key, range(done)))))
    return sum("error" not in row for row in JsonlRows(folder / "answers.jsonl"))


def run_labels(folder: Path, rows: int) -> Any:
    """Phase distill: the drawn subset, and the pseudo-labels by key."""
    from llamafactory_clinkd.phases.pseudo_label import read_pseudo_labels
    from llamafactory_clinkd.training.tracked_data import seeded_subset

    return len(seeded_subset(rows, 30_000, 0, "pseudo_label")), len(read_pseudo_labels(folder / "pseudo_labels.jsonl"))


def run_correction(folder: Path, rows: int) -> Any:
    """A round of correction that continues before its last row."""
    return run_round(folder, rows).kept


def run_selection(folder: Path, rows: int) -> Any:
    """A ranking of candidates that continues before its last rows."""
    return len(rank_rows(folder, rows))


def run_cache(folder: Path, rows: int) -> Any:
    """The index of a teacher cache."""
    from llamafactory_clinkd.kd.teacher_cache import HiddenCache

    return len(HiddenCache(folder / "cache", teacher="t", hidden_size=1))


def run_progress(folder: Path, rows: int) -> Any:
    """LLaMA Board's page: answers counted twice, as after two seconds."""
    from llamafactory_clinkd.webui.run_progress import _count_lines

    return [sum(_count_lines(path) for path in folder.glob("answers.jsonl*")) for _ in range(2)]


CASES: dict[str, tuple[Callable[[Path, int], None], list[Callable[[Path, int], Any]], int]] = {
    "data": (make_data, [run_data, run_data_again, run_count], 10**9),
    "rows": (make_aligned, [run_rows, run_describe], 10**9),
    "generation": (make_answers, [run_progress, run_generation, run_merge], 10**9),
    "labels": (make_labels, [run_labels], 10**9),
    "correction": (make_round, [run_correction], HALF),
    "selection": (make_part, [run_selection], HALF),
    "cache": (make_cache, [run_cache], 10**9),
}
"""Case -> what makes its files, what is measured over them in order, the most rows for its disk space."""
