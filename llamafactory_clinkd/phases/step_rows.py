# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which rows a training step sees: ranks x ``per_device_train_batch_size`` x ``gradient_accumulation_steps``.

The loader deals micro-batches out to the ranks in turn, and a checkpoint counts steps. Training therefore continues
with the right rows exactly if this product is what it was (accelerate, ``BatchSamplerShard``).
"""

from typing import Any


KEYS = ("per_device_train_batch_size", "gradient_accumulation_steps")


def step_rows(training: Any, ranks: int) -> dict[str, int]:
    """The three factors, as the state records them."""
    return {"ranks": ranks, **{key: getattr(training, key) for key in KEYS}}


def product(rows: dict[str, int]) -> int:
    """Rows of one optimizer step."""
    return rows["ranks"] * rows[KEYS[0]] * rows[KEYS[1]]


def changed_result(old: dict[str, int] | None, new: dict[str, int]) -> str | None:
    """Why a *finished* training is not that of the recipe; another number of ranks alone is no other recipe."""
    if old is None or all(old[key] == new[key] for key in KEYS) or product(old) == product(new):
        return None
    return "; ".join(f"{key} was {old[key]}, is {new[key]}" for key in KEYS if old[key] != new[key])


def fault_of_resume(old: dict[str, int] | None, new: dict[str, int], arguments: Any) -> str | None:
    """Why an *unfinished* training cannot be continued exactly with other factors; ``None`` if it can.

    ``arguments`` are the recipe's. The error has the way out.
    """
    if old is None or old == new:
        return None
    training, was, now = arguments.training, _shown(old), _shown(new)
    if product(old) != product(new):
        per_pass = new["ranks"] * new[KEYS[0]]
        fits = product(old) % per_pass == 0
        way = f"`{KEYS[1]}: {product(old) // per_pass}`" if fits else f"{old['ranks']} ranks and the old batch size"
        return f"a step would see {product(new)} rows ({now}) instead of {product(old)} ({was}). Continue with {way}"
    reasons = {
        f"DeepSpeed's checkpoints belong to {old['ranks']} ranks": bool(training.deepspeed)
        and old["ranks"] != new["ranks"],
        "`group_by_length` orders the rows by these numbers": training.train_sampling_strategy == "group_by_length",
        "`split_batches` divides a batch among the ranks": bool(
            getattr(training.accelerator_config, "split_batches", False)
        ),
        "the load-balancing loss depends on what is in a micro-batch": old[KEYS[0]] != new[KEYS[0]]
        and arguments.model.moe_aux_loss_coef is not None,
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    return reason and f"{reason} (was {was}, is {now}). Continue with {was}"


def _shown(rows: dict[str, int]) -> str:
    return ", ".join(f"{key} {rows[key]}" for key in ("ranks", *KEYS))
