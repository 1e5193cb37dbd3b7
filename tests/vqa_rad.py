# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The training part of VQA-RAD where it is at hand, and a model small enough to train on all of it on a CPU."""

import json
import os
from pathlib import Path

import pytest
from tiny_models import build_tiny_qwen2vl


VQA_RAD = Path(os.environ.get("CLINKD_VQA_RAD", Path(__file__).parents[2] / "shared" / "data" / "vqa_rad"))
needs_vqa_rad = pytest.mark.skipif(
    not (VQA_RAD / "trainset.json").is_file(),
    reason="VQA-RAD's trainset.json and images are not here (set CLINKD_VQA_RAD to their folder)",
)


def build_vqa_rad_model(folder: Path) -> Path:
    """A Qwen2-VL with a vocabulary of its questions and answers; saved to ``folder``, which is returned."""
    rows = json.loads((VQA_RAD / "trainset.json").read_text(encoding="utf-8"))
    texts = [str(row[key]) for row in rows for key in ("question", "answer")]
    return build_tiny_qwen2vl(folder, hidden_size=32, layers=1, texts=texts)
