# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd doctor --plan``: memory, disk and counts of a recipe before a GPU is rented.

Pure arithmetic over a recipe's keys and the models' configurations: no GPU, no LLaMA-Factory, no download.
"""

from collections.abc import Mapping
from typing import Any

from .advice import advice
from .counts import counts_of
from .phase_costs import PARTS, memory_of_phases
from .recipe_spec import Facts, facts_of
from .table import plan_table


__all__ = ["PARTS", "Facts", "facts_of", "make_plan", "plan_table"]


def make_plan(keys: Mapping[str, Any], *, gpus: int, gib: float, **options: Any) -> dict[str, Any]:
    """The plan of a recipe.

    Args:
        keys: The recipe's keys.
        gpus: Number of GPUs.
        gib: Memory of each, GiB.
        **options: See :func:`.facts.facts_of`.

    Returns:
        JSON-able: ``gpus``, ``gib``, ``fits``, ``memory`` (phase -> part -> bytes, with ``peak``), ``counts``,
        ``advice`` (lines; empty if it fits) and ``assumptions`` (lines).

    Raises:
        ValueError: If the recipe cannot be planned; the message says what to change.
    """
    facts = facts_of(keys, gpus=gpus, **options)
    memory = memory_of_phases(facts)
    available = int(gib * 2**30)
    assumptions = [
        f"every row has {facts.row_tokens} tokens, an image {facts.image_tokens} of them, an answer "
        f"{facts.answer_tokens} on average and at most {facts.new_tokens}",
        "every answer is wrong and is corrected (the most that can be)",
    ]
    if facts.rows_are_assumed:
        assumptions.append(
            f"{facts.train_rows} training and {facts.eval_rows} evaluation rows: the paper's numbers where the "
            "recipe's data is not on this machine"
        )
    return {
        "gpus": gpus,
        "gib": gib,
        "fits": all(parts["peak"] <= available for parts in memory.values()),
        "memory": memory,
        "counts": counts_of(facts),
        "advice": advice(facts, memory, available),
        "assumptions": assumptions,
    }
