# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What the engines leave to be mended between phases and runs."""

import torch

from llamafactory_clinkd.phases.distributed import load_on_numbered_cpus


def test_tensors_are_loaded_to_a_numbered_cpu(tmp_path):
    torch.save({"moment": torch.arange(3.0)}, tmp_path / "optimizer.pt")
    load_on_numbered_cpus()
    load_on_numbered_cpus()
    found = torch.load(tmp_path / "optimizer.pt", map_location=torch.device("cpu", 0), weights_only=True)
    assert found["moment"].tolist() == [0.0, 1.0, 2.0] and found["moment"].device.type == "cpu"
