# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

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
