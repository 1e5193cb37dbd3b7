# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A small training loop for the demo's pretraining: AdamW, warm-up and cosine, clipping, resumable to the step."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


WARMUP = 50
BETAS = (0.9, 0.98)  # runs of a few hundred steps: with 0.999 AdamW remembers the first ones for too long
SAVE_SECONDS = 20.0


def batches(rows: int, size: int, seed: int) -> Callable[[int], np.ndarray]:
    """A function of the step that gives the rows of its batch: a new seeded order in each pass, full batches only.

    It keeps no state, so a resumed run sees the very batches that it would have seen.
    """
    per_pass = max(rows // size, 1)

    def batch(step: int) -> np.ndarray:
        order = np.random.default_rng([seed, step // per_pass]).permutation(rows)
        start = step % per_pass * size
        return order[start : start + size]

    return batch


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 50 steps (a tenth of a shorter run), then a cosine that ends at 0."""
    warm = min(1.0, (step + 1) / max(min(WARMUP, steps // 10), 1))
    return peak * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def train(
    module: nn.Module,
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    peak: float,
    checkpoint: Path,
    advance: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    save_seconds: float = SAVE_SECONDS,
) -> float:
    """Trains the parameters of ``module`` that require a gradient, going on from ``checkpoint`` where it exists.

    Args:
        module: What is trained.
        loss_of: Step -> loss of its batch (scalar).
        steps: Optimiser steps in all.
        peak: Highest learning rate.
        checkpoint: A safetensors file: parameters, both moments of AdamW and the step. It is left in place.
        advance: Called after each step with (steps done, steps, loss).
        save_seconds: Seconds between two checkpoints.

    Returns:
        The mean loss of the last 20 steps that were run; where none was left to run, what the checkpoint says of it.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(named.values(), lr=peak, weight_decay=0.01, betas=BETAS)
    start, reached = _load(checkpoint, named, optimizer) if checkpoint.exists() else (0, math.nan)
    saved, losses = time.monotonic(), []
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        loss = loss_of(step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"The loss is {loss.item()} at step {step}; lower the learning rate {peak}.")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(named.values()), 1.0)
        optimizer.step()
        losses.append(loss.item())
        advance(step + 1, steps, losses[-1])
        if step + 1 == steps or time.monotonic() - saved > save_seconds:
            _save(checkpoint, named, optimizer, step + 1, float(np.mean(losses[-20:])))
            saved = time.monotonic()
    return float(np.mean(losses[-20:])) if losses else reached


def _tensors(named: dict[str, nn.Parameter], optimizer: torch.optim.AdamW) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in named.items():
        yield f"parameter/{name}", parameter.detach()
        for moment in ("exp_avg", "exp_avg_sq"):
            yield f"{moment}/{name}", optimizer.state[parameter][moment]


def _save(path: Path, named: dict[str, nn.Parameter], optimizer: torch.optim.AdamW, step: int, loss: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, facts = path.with_suffix(".part"), {"step": str(step), "loss": repr(loss)}
    save_file({key: tensor.contiguous() for key, tensor in _tensors(named, optimizer)}, partial, facts)
    partial.replace(path)


def _load(path: Path, named: dict[str, nn.Parameter], optimizer: torch.optim.AdamW) -> tuple[int, float]:
    """Restores parameters and moments; returns the step to go on with and the loss that was reached."""
    with safe_open(path, framework="pt") as file, torch.no_grad():
        facts = file.metadata()
        step = int(facts["step"])
        for name, parameter in named.items():
            parameter.copy_(file.get_tensor(f"parameter/{name}"))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": file.get_tensor(f"exp_avg/{name}"),
                "exp_avg_sq": file.get_tensor(f"exp_avg_sq/{name}"),
            }
    return step, float(facts["loss"])
