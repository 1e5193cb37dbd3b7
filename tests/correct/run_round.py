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

"""Runs one round against a server, as a process that a test can kill: run_round.py ROWS OUT URL SIMILARITY."""

import sys

from llamafactory_clinkd.correct import correct_round, load_similarity
from llamafactory_clinkd.correct.openai_client import OpenAICorrector
from llamafactory_clinkd.run_state import read_jsonl


def run(rows: list[dict], out_path: str, url: str, similarity: str):
    corrector = OpenAICorrector(model="m", base_url=url, concurrency=8, timeout=0.4, backoff=0.01)
    return correct_round(rows, similarity=load_similarity(similarity), corrector=corrector, out_path=out_path)


if __name__ == "__main__":
    run(read_jsonl(sys.argv[1]), *sys.argv[2:])
