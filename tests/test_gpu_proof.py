# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The GPU kit on the CPU with tiny shapes: that its parts run, not what they measure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def run_parts(out, *parts):
    command = [
        sys.executable,
        BENCHMARKS / "gpu_proof.py",
        "--device",
        "cpu",
        "--tiny",
        "--out",
        out,
        "--parts",
        *parts,
    ]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=900)
    return json.loads((out / "gpu_proof.json").read_text())["parts"], (out / "gpu_proof.md").read_text()


@pytest.mark.slow
def test_parts_that_need_torch_and_transformers_alone(tmp_path):
    parts, table = run_parts(tmp_path, "attention", "offloaded")
    assert {name: part["status"] for name, part in parts.items()} == {"attention": "ok", "offloaded": "ok"}
    norms = [case["norm"] for case in parts["offloaded"]["result"].values()]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert "| a teacher in the machine's memory | offloaded |" in table


@pytest.mark.long
def test_every_part(tmp_path):
    parts, table = run_parts(tmp_path, "loss", "step", "attention", "quantised", "offloaded", "procedure", "on_policy")
    assert {name: (part["status"], part.get("reason")) for name, part in parts.items()} == dict.fromkeys(
        parts, ("ok", None)
    )
    assert set(parts["procedure"]["result"]["demo"]) == {"seconds", "VG", "ROC", "RC", "MIA"}
    assert table.count("\n|") > 15
