# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Training continues on other ranks where each step sees the same rows, and is refused elsewhere."""

from types import SimpleNamespace

import pytest
from small_run import copy_as_killed, losses, recipe

from llamafactory_clinkd.phases.state import changed_result, fault_of_resume, step_rows


def rows(ranks, batch, accumulation):
    training = SimpleNamespace(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    return step_rows(training, ranks)


def arguments(moe=None, **training):
    defaults = {"deepspeed": None, "train_sampling_strategy": "random", "accelerator_config": None}
    return SimpleNamespace(
        training=SimpleNamespace(**(defaults | training)), model=SimpleNamespace(moe_aux_loss_coef=moe)
    )


@pytest.mark.parametrize("new", [(1, 2, 4), (2, 2, 2), (4, 2, 1), (2, 4, 1), (1, 8, 1), (8, 1, 1)])
def test_same_rows_in_each_step_are_continued(new):
    assert fault_of_resume(rows(1, 2, 4), rows(*new), arguments()) is None
    assert changed_result(rows(1, 2, 4), rows(*new)) is None


@pytest.mark.parametrize(
    ("new", "way"),
    [
        ((2, 2, 4), "Continue with `gradient_accumulation_steps: 2`"),
        ((1, 4, 4), "Continue with `gradient_accumulation_steps: 2`"),
        ((3, 2, 4), "Continue with 1 ranks and the old batch size"),
    ],
)
def test_other_rows_are_refused_with_the_way_out(new, way):
    fault = fault_of_resume(rows(1, 2, 4), rows(*new), arguments())
    assert "rows" in fault and "instead of 8" in fault and fault.endswith(way)


@pytest.mark.parametrize(
    ("new", "settings", "reason"),
    [
        ((2, 2, 2), {"deepspeed": "zero2.json"}, "DeepSpeed's checkpoints belong to 1 ranks"),
        ((2, 2, 2), {"train_sampling_strategy": "group_by_length"}, "`group_by_length` orders"),
        ((2, 2, 2), {"accelerator_config": SimpleNamespace(split_batches=True)}, "`split_batches` divides"),
        ((1, 4, 2), {"moe": 0.1}, "the load-balancing loss"),
    ],
)
def test_same_number_of_rows_is_not_enough_everywhere(new, settings, reason):
    assert reason in fault_of_resume(rows(1, 2, 4), rows(*new), arguments(**settings))
    assert fault_of_resume(rows(1, 2, 4), rows(1, 2, 4), arguments(**settings)) is None


def test_other_ranks_are_no_other_recipe_for_a_finished_training():
    assert changed_result(rows(2, 2, 4), rows(1, 2, 4)) is None and changed_result(None, rows(1, 2, 4)) is None
    assert changed_result(rows(1, 2, 4), rows(1, 2, 8)) == "gradient_accumulation_steps was 4, is 8"


@pytest.mark.slow
def test_interrupted_training_continues_with_other_batches(workspace, tmp_path):
    """The same rows in each step, in two ways; then other rows, which are refused."""
    from llamafactory.train.tuner import run_exp

    keys = {"kd_method": "none", "ref_model": None, "save_strategy": "steps", "save_steps": 1, "kd_epochs": 2}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_exp(recipe(workspace, whole, **keys))
    copy_as_killed(whole, cut)
    with pytest.raises(ValueError, match=r"`distill` cannot be continued: a step would see 8 rows .* instead of 4"):
        run_exp(recipe(workspace, cut, **keys, gradient_accumulation_steps=4))
    run_exp(recipe(workspace, cut, **keys, per_device_train_batch_size=4, gradient_accumulation_steps=1))
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-5) and len(losses(cut)) == 4
