# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Runs a recipe through LLaMA-Factory and prints the most memory it held above its start, in bytes.

``python measure.py WARM_UP RECIPE``, in a process of its own. WARM_UP is the same recipe over tiny models: after it
the libraries, the tokenizer and their caches are there, and what the second run adds is the models and the work.
"""

import gc
import json
import sys
import threading
from pathlib import Path

import llamafactory.train.tuner


EVERY_SECONDS = 0.004
PAGE = 4096


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def run(recipe: str) -> None:
    llamafactory.train.tuner.run_exp(json.loads(Path(recipe).read_text()))
    gc.collect()


def main(warm_up: str, recipe: str) -> None:
    run(warm_up)
    start = peak = resident_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(EVERY_SECONDS):
            peak = max(peak, resident_bytes())

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    run(recipe)
    done.set()
    watching.join()
    print(f"\nabove start: {peak - start}")


if __name__ == "__main__":
    main(*sys.argv[1:])
