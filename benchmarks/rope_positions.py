# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rotary positions: ours against stock ``Qwen2VLModel.get_rope_index``, on the same batches, in one run.

    python benchmarks/rope_positions.py [--json FILE]

Every batch has B rows of L tokens with 1 to 8 square or oblong images a row, padded on the left. Before anything is
timed, our ``mrope`` is compared with stock on every batch. Stock and ours take turns inside each repetition, and the
fastest of all repetitions counts: whatever else runs on the machine only adds time. The JSON has the medians too.
"""

import argparse
import json
import platform
import random
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import Qwen2VLModel

from llamafactory_clinkd.rope import mcg as positions


def random_batch(rows: int, length: int, images: int, generator: random.Random) -> dict[str, torch.Tensor]:
    """Types, mask and grids of a batch with ``images`` images in each row."""
    types = torch.zeros(rows, length, dtype=torch.long)
    mask = torch.ones(rows, length, dtype=torch.long)
    grids = []
    largest = int((length * 0.8 / images) ** 0.5)
    for row in range(rows):
        pad = generator.randint(0, length // 16)
        mask[row, :pad] = 0
        at = pad
        for _ in range(images):
            height, width = generator.randint(largest // 2, largest), generator.randint(largest // 2, largest)
            at += generator.randint(1, 8)
            types[row, at : at + height * width] = 1
            at += height * width
            grids.append([1, 2 * height, 2 * width])
        if at >= length:
            raise ValueError(f"{images} images do not fit in {length} tokens.")
    return {"mm_token_type_ids": types, "attention_mask": mask, "image_grid_thw": torch.tensor(grids)}


def stock_positions(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stock's own method; it reads nothing but the merge size from the model."""
    stub = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2)))
    stub.get_vision_position_ids = Qwen2VLModel.get_vision_position_ids.__get__(stub)
    return Qwen2VLModel.get_rope_index(stub, torch.zeros_like(batch["mm_token_type_ids"]), **batch)


METHODS = {
    "stock": stock_positions,
    "mrope": lambda batch: positions.mrope(**batch),
    "mcg": lambda batch: positions.mcg(**batch),
    "mcg_released": lambda batch: positions.mcg_released(**batch),
    "rope_2d": lambda batch: positions.rope_2d(**batch),
}


def measure(batch: dict[str, torch.Tensor], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Fastest and median milliseconds of each method on one batch."""
    for own, stock in zip(positions.mrope(**batch), stock_positions(batch), strict=True):
        if not torch.equal(own, stock):
            raise RuntimeError("mrope differs from stock on a benchmark batch: its time would mean nothing.")
    seconds = {name: [] for name in METHODS}
    for _ in range(repeats):
        for name, method in METHODS.items():
            start = time.perf_counter()
            method(batch)
            seconds[name].append(time.perf_counter() - start)
    return tuple({name: pick(times) * 1000 for name, times in seconds.items()} for pick in (min, median))


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = random.Random(arguments.seed)

    results: list[dict[str, Any]] = []
    for images in track(range(1, 9), description="images a row", console=Console(stderr=True)):
        batch = random_batch(arguments.rows, arguments.length, images, generator)
        milliseconds, medians = measure(batch, arguments.repeats)
        ratios = {name: value / milliseconds["stock"] for name, value in milliseconds.items() if name != "stock"}
        row = {"images_per_row": images, "milliseconds": milliseconds, "median_milliseconds": medians}
        results.append({**row, "ratio_to_stock": ratios})

    table = Table(title=f"Positions of a batch, B = {arguments.rows}, L = {arguments.length}: ms (share of stock)")
    for column in ("images a row", *METHODS):
        table.add_column(column, justify="right")
    for result in results:
        cells = [f"{result['milliseconds']['stock']:.2f}"]
        cells += [f"{result['milliseconds'][n]:.2f} ({r:.2f}x)" for n, r in result["ratio_to_stock"].items()]
        table.add_row(str(result["images_per_row"]), *cells)
    worst = {name: max(r["ratio_to_stock"][name] for r in results) for name in METHODS if name != "stock"}
    table.add_row("worst", "", *(f"{ratio:.2f}x" for ratio in worst.values()))
    Console(width=110).print(table)

    if arguments.json:
        report = {
            "rows": arguments.rows,
            "length": arguments.length,
            "repeats": arguments.repeats,
            "threads": 1,
            "machine": platform.machine(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "results": results,
            "worst_ratio_to_stock": worst,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
