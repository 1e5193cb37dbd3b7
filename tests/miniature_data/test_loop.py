# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest
import torch
from miniature.loop import batches, learning_rate, train
from safetensors import safe_open
from torch import nn


def make(seed=0):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    module[0].bias.requires_grad_(False)
    data = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    batch = batches(40, 8, seed=2)
    return module, lambda step: (module(data[batch(step)]) - data[batch(step)].sum(1, keepdim=True)).square().mean()


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole, loss_of = make()
    train(whole, loss_of, steps=12, peak=1e-2, checkpoint=tmp_path / "whole.safetensors")

    class Interrupt(Exception):
        pass

    def stop(step, steps, loss):
        if step == 7:
            raise Interrupt

    broken, loss_of = make()
    with pytest.raises(Interrupt):
        path = tmp_path / "broken.safetensors"
        train(broken, loss_of, steps=12, peak=1e-2, checkpoint=path, advance=stop, save_seconds=-1)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["step"] == "6"
    resumed, loss_of = make(seed=9)  # its own weights do not matter
    resumed[0].bias.data.copy_(whole[0].bias)  # but the frozen one, which no checkpoint holds
    train(resumed, loss_of, steps=12, peak=1e-2, checkpoint=path)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_finished_run_restores_without_a_step(tmp_path):
    module, loss_of = make()
    reached = train(module, loss_of, steps=4, peak=1e-2, checkpoint=tmp_path / "run.safetensors")
    again, _ = make(seed=3)

    def never(step):
        raise AssertionError("no step was left to run")

    assert train(again, never, steps=4, peak=1e-2, checkpoint=tmp_path / "run.safetensors") == reached
    torch.testing.assert_close(module[2].weight, again[2].weight, rtol=0, atol=0)


def test_a_step_is_one_of_adamw_with_clipping(tmp_path):
    module, loss_of = make()
    reference, reference_loss = make()
    train(module, loss_of, steps=3, peak=1e-2, checkpoint=tmp_path / "run.safetensors")
    moving = [parameter for parameter in reference.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=1e-2, weight_decay=0.01, betas=(0.9, 0.98))
    for step in range(3):
        optimizer.param_groups[0]["lr"] = learning_rate(step, 3, 1e-2)
        optimizer.zero_grad()
        reference_loss(step).backward()
        nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
    torch.testing.assert_close(module[2].weight, reference[2].weight)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    module, _ = make()
    with pytest.raises(FloatingPointError, match="learning rate"):
        nan = lambda step: module[2].weight.sum() * math.nan  # noqa: E731
        train(module, nan, steps=2, peak=1.0, checkpoint=tmp_path / "run.safetensors")


def test_learning_rate_warms_up_and_ends_at_nothing():
    rates = [learning_rate(step, 1000, 2.0) for step in range(1000)]
    assert rates[0] == pytest.approx(2.0 / 50) and max(rates) == pytest.approx(2.0, rel=0.01)
    assert rates[-1] < 1e-4 and all(a >= b for a, b in zip(rates[50:], rates[51:], strict=False))


def test_each_pass_sees_each_row_once_in_another_order():
    batch = batches(20, 4, seed=0)
    first, second = (np.concatenate([batch(step) for step in steps]) for steps in (range(5), range(5, 10)))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()
    assert batch(3).tolist() == batches(20, 4, seed=0)(3).tolist()


def test_fewer_rows_than_a_batch_make_a_smaller_batch():
    assert sorted(batches(3, 8, seed=0)(5)) == [0, 1, 2]
