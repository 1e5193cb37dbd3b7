# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 1: the teacher answers a seeded random subset of the training questions by beam search (section 4.1, 4.3)."""

from functools import partial
from typing import Any

from ..kd.pseudo_labels import write_pseudo_labels
from ..rope.saved_positions import bind_settings, teacher_settings
from ..training.tracked_data import TrackedData
from .context import Run
from .recipe import beam_settings, generating_arguments, teacher_model_arguments


PSEUDO_LABEL_BEAMS = 3


def run_phase(run: Run) -> list[str]:
    """Writes ``clinkd/pseudo_labels.jsonl``; returns the files written, relative to ``output_dir``."""
    arguments = generating_arguments(run.recipe, run.folder / "pseudo_label", over_training_rows=True)
    teacher = teacher_model_arguments(arguments)
    finetuning = type(arguments.finetuning)()  # as in stock's `create_ref_model`: adapters are loaded, nothing else
    settings = teacher_settings(teacher, run.settings)
    data = TrackedData(choose_eval=lambda rows: run.choose_subset(_training_split(run, rows)))
    out_path = run.folder / "pseudo_labels.jsonl"
    run.generate(
        "pseudo_label",
        arguments._replace(model=teacher, finetuning=finetuning),
        data,
        after_load=lambda model: bind_settings(model, settings),
        num_candidates=1,
        generation=beam_settings(run.recipe.generating, PSEUDO_LABEL_BEAMS),
        title="teacher's pseudo-labels",
        finish=partial(write_pseudo_labels, out_path),
    )
    return [run.relative(out_path)]


def _training_split(run: Run, rows: Any) -> Any:
    """The rows that stock trains on: all but those that ``val_size`` holds out."""
    data = run.recipe.data
    if data.val_size < 1e-6 or data.eval_dataset:
        return rows
    from llamafactory.data.data_utils import split_dataset

    train, _ = split_dataset(rows, None, data, seed=run.recipe.training.seed)
    return train["train"]
