# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Token accuracy beside an evaluation's loss, which it does not change."""

import json

import numpy as np
import pytest
import torch
from small_run import recipe
from transformers import EvalPrediction

from llamafactory_clinkd.training.sft_trainer import _first_choices, of_supervised_rows


def evaluations(folder):
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry for entry in state["log_history"] if "eval_loss" in entry]


def test_accuracy_leaves_loss_best_model_and_early_stopping_as_they_are(workspace, tmp_path):
    from llamafactory.train.tuner import run_exp

    keys = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "kd_epochs": 2}
    keys |= {"load_best_model_at_end": True, "early_stopping_steps": 3, "per_device_eval_batch_size": 2}
    for accuracy in (False, True):
        run_exp(recipe(workspace, tmp_path / str(accuracy), compute_accuracy=accuracy, **keys))
    without, beside = evaluations(tmp_path / "False"), evaluations(tmp_path / "True")
    assert [entry["eval_loss"] for entry in without] == [entry["eval_loss"] for entry in beside]
    assert all(0 <= entry["eval_accuracy"] <= 1 for entry in beside)
    assert not any("eval_accuracy" in entry for entry in without)


def test_choices_are_the_argmax_where_a_token_is_learnt():
    torch.manual_seed(0)
    labels = torch.tensor([[-100, -100, 3, 4, -100], [-100, 1, 2, -100, -100]])
    logits = torch.randn(2, 5, 7)
    supervised_idx = torch.tensor([0, 1, 2])  # whose next token is learnt in some row
    flat = logits[:, supervised_idx].flatten(0, 1)
    choices = _first_choices(labels, supervised_idx, lambda rows: flat[rows])
    assert torch.equal(choices[:, :3], logits.argmax(-1)[:, :3]) and bool((choices[:, 3:] == -100).all())


@pytest.mark.filterwarnings("error")
def test_a_row_without_a_learnt_token_counts_for_nothing():
    from llamafactory.train.sft.metric import ComputeAccuracy

    labels = np.array([[-100, 5, 6], [-100, -100, -100], [-100, -100, 7]])
    predictions = np.array([[5, 1, 0], [5, 6, 0], [0, 7, 0]])
    metric = of_supervised_rows(ComputeAccuracy())
    assert metric(EvalPrediction(predictions, labels)) == {"accuracy": pytest.approx((0.5 + 1.0) / 2)}
    assert metric(EvalPrediction(torch.tensor(predictions), torch.tensor(labels)), compute_result=False) is None
