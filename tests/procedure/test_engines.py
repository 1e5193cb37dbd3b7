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

"""What the engines leave to be mended between phases and runs."""

import torch

from llamafactory_clinkd.procedure.engines import load_on_numbered_cpus


def test_tensors_are_loaded_to_a_numbered_cpu(tmp_path):
    torch.save({"moment": torch.arange(3.0)}, tmp_path / "optimizer.pt")
    load_on_numbered_cpus()
    load_on_numbered_cpus()
    found = torch.load(tmp_path / "optimizer.pt", map_location=torch.device("cpu", 0), weights_only=True)
    assert found["moment"].tolist() == [0.0, 1.0, 2.0] and found["moment"].device.type == "cpu"
