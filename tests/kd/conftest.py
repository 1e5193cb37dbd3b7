# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from small_run import drawn_rows
from tiny_models import build_tiny_qwen2vl

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt
from llamafactory_clinkd.kd import on_policy_trainer


@pytest.fixture(scope="session")
def small_workspace(tmp_path_factory):
    """Student, teacher and data with a vocabulary of about 1,000, so that a run takes seconds; never written to."""
    folder = tmp_path_factory.mktemp("small")
    rows = drawn_rows(folder / "data", 12)
    texts = [text for row in rows for turn in row["turns"] for text in turn]
    build_tiny_qwen2vl(folder / "student", hidden_size=64, layers=1, seed=0, texts=texts)
    build_tiny_qwen2vl(folder / "teacher", hidden_size=128, layers=2, seed=1, texts=texts)
    write_sharegpt(folder / "data" / "train.json", rows[:8])
    write_sharegpt(folder / "data" / "test.json", rows[8:])
    entries = {f"tiny_{name}": dataset_info_entry(f"{name}.json") for name in ("train", "test")}
    write_dataset_info(folder / "data", entries)
    return folder


@pytest.fixture
def one_thread():
    """Sums in one order: the number of threads changes roundings."""
    torch.set_num_threads(1)


@pytest.fixture
def rounds(monkeypatch):
    """The batches and rollouts of every round of a run in this process."""
    seen, stock = [], on_policy_trainer.sample

    def sample(model, batches, **options):
        result = stock(model, batches, **options)
        seen.append((batches, result))
        return result

    monkeypatch.setattr(on_policy_trainer, "sample", sample)
    return seen


@pytest.fixture
def encoded(monkeypatch):
    """One entry for each run of a vision tower."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel as Tower

    runs, forward = [], Tower.forward
    monkeypatch.setattr(
        Tower, "forward", lambda self, *args, **kwargs: runs.append(1) or forward(self, *args, **kwargs)
    )
    return runs
