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
