# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The training rows of a run: always the same ones under the same numbers, whichever phase asks."""

from typing import Any

from .context import Run, seeded_subset


def training_part(run: Run, rows: Any) -> Any:
    """The rows that stock would train on: without those that ``val_size`` holds out."""
    data = run.recipe.data
    if data.val_size < 1e-6 or data.eval_dataset:
        return rows
    from llamafactory.data.data_utils import split_dataset

    train, _ = split_dataset(rows, None, data, seed=run.recipe.training.seed)
    return train["train"]


def choose_subset(run: Run, rows: Any) -> Any:
    """The ``pseudo_label_samples`` rows that the teacher labels and the student is distilled on (section 4.1)."""
    wanted = run.settings.pseudo_label_samples
    return rows.select(seeded_subset(len(rows), wanted, run.recipe.training.seed, "pseudo_label"))
