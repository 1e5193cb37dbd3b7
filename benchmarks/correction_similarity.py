# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""How well a similarity alone separates rewordings that keep the meaning from others, and the time of the validation.

    python benchmarks/correction_similarity.py [CLIP_MODEL]

Pairs: ``tests/correct/meaning_pairs.jsonl``. Best thresholds are chosen on the development half and measured on the
held-out half. ``docs/correction.md`` has the table.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from llamafactory_clinkd.correct import load_similarity
from llamafactory_clinkd.correct.clinical_comparison import meaning_differences


ROOT = Path(__file__).resolve().parents[1]
PAIRS = [json.loads(line) for line in (ROOT / "tests/correct/meaning_pairs.jsonl").open(encoding="utf-8")]
REWORDINGS = 10_000


def main() -> None:
    """Prints one line for each similarity, then the validator's, then its throughput."""
    clip = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "llamafactory_clinkd/demo/models/scorer")
    held_out = np.array([pair["half"] == "held_out" for pair in PAIRS])
    kept = np.array([pair["keeps_meaning"] for pair in PAIRS])
    texts = [[pair[side] for pair in PAIRS] for side in ("annotation", "candidate")]
    for kind, model in (("lexical", None), ("sentence", None), ("clip", clip)):
        scores = np.array(load_similarity(kind, model=model).scores(*texts))
        auc = (scores[kept][:, None] > scores[~kept]).mean() + (scores[kept][:, None] == scores[~kept]).mean() / 2
        steps = np.arange(0, 1.001, 0.01)
        best = max(steps, key=lambda step: _accuracy(scores >= step, kept, ~held_out))
        print(kind, f"AUC {auc:.3f}", f"best threshold {best:.2f}", *_rates(scores >= best, kept, held_out), sep="  ")
        print(kind, "at 0.80", *_rates(scores >= 0.8, kept, held_out), sep="  ")
        strict = next((step for step in steps if not (scores >= step)[~kept].any()), None)
        print(kind, f"first threshold that accepts no change of meaning: {strict}")
    accepted = np.array([not meaning_differences(p["annotation"], p["candidate"], p["question"]) for p in PAIRS])
    print("validator", *_rates(accepted, kept, held_out), sep="  ")

    rows = [
        (f"{p['annotation']} {n}", f"{p['candidate']} {n}") for n in range(REWORDINGS) for p in PAIRS[n % 396 :][:1]
    ]
    start, cpu = time.perf_counter(), time.process_time()
    for annotation, candidate in rows:
        meaning_differences(annotation, candidate)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"{len(rows)} rewordings, every text a new one: {wall:.0f} s, {cpu:.0f} s of one CPU")


def _accuracy(accepted: np.ndarray, kept: np.ndarray, where: np.ndarray) -> float:
    return float((accepted == kept)[where].mean())


def _rates(accepted: np.ndarray, kept: np.ndarray, where: np.ndarray) -> tuple[str, str, str]:
    return (
        f"held-out accuracy {_accuracy(accepted, kept, where):.1%}",
        f"meaning kept, accepted: {accepted[kept & where].sum()}/{(kept & where).sum()}",
        f"meaning changed, accepted: {accepted[~kept & where].sum()}/{(~kept & where).sum()}",
    )


if __name__ == "__main__":
    main()
