# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Builds what the runs of a scale start from, where it is not there yet."""

from collections.abc import Collection
from pathlib import Path

from rich.console import Console

from ..demo.progress import bars_of_parts
from .row_recipes import EXAMPLES, Plan, models_of, read_recipe


NOISE_SIDE = 448
"""Pixels a side of the noise that stands for Med-GRIT's images."""


def benchmark_of(scale: str) -> str | None:
    """What identifies the data and models that come with a scale; None where the user brings them."""
    if scale == "paper":
        return None
    from miniature.mini import benchmark_id

    return benchmark_id()


def inputs_of(plan: Plan, directory: Path) -> dict[str, str]:
    """SHA-256 of what a run starts from, to be kept with its result; none where the user brings it."""
    if plan.scale == "paper":
        return {}
    from miniature.mini import inputs_of

    return inputs_of(directory / plan.scale, models_of(plan))


def models_are_there(plan: Plan, directory: Path) -> bool:
    """Whether the models of the scale that a run needs are built; at paper scale the user brings them."""
    if plan.scale == "paper":
        return True
    from miniature.mini import models_are_there

    return models_are_there(directory / plan.scale, models_of(plan))


def prepare(scale: str, directory: Path, cache: Path, console: Console, plans: Collection[Plan] | None = None) -> None:
    """Builds the miniature benchmark, or the data sets of noise beside Med-GRIT's.

    Args:
        scale: ``paper`` or ``mini``.
        directory: The folder in the place of ``runs/reproduce``.
        cache: Folder of downloaded scans.
        console: Where progress is shown.
        plans: The runs that it is for, whose models alone are built; all models by default.
    """
    if scale == "paper":
        from .blind import write_blind

        base = read_recipe(EXAMPLES / scale / "base.yaml")
        made = write_blind(Path(base["dataset_dir"]), [base["dataset"], base["eval_dataset"]], side=NOISE_SIDE)
        console.print(f"Data sets of noise: {', '.join(made)}. The others come from `clinkd data convert`.")
        return
    from miniature.mini import MODELS, build_mini

    models = MODELS if plans is None else set().union(*map(models_of, plans))
    with bars_of_parts(console) as show:
        build_mini(directory / scale, cache, show, console.print, models)
