# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Runs one round against a server, as a process that a test can kill: run_round.py ROWS OUT URL SIMILARITY."""

import sys

from llamafactory_clinkd.correct import correct_round, load_similarity
from llamafactory_clinkd.utils.io import read_jsonl


def run(rows: list[dict], out_path: str, url: str, similarity: str):
    from llamafactory_clinkd.correct.client import OpenAICorrector

    corrector = OpenAICorrector(model="m", base_url=url, concurrency=8, timeout=0.4, backoff=0.01)
    return correct_round(rows, similarity=load_similarity(similarity), corrector=corrector, out_path=out_path)


if __name__ == "__main__":
    run(read_jsonl(sys.argv[1]), *sys.argv[2:])
