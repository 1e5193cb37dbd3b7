# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One run of the procedure: what the phases share."""

import shutil
from pathlib import Path
from typing import Any

from ..arguments import TRAINING_PHASES
from ..rope.saved_positions import apply_saved_positions
from ..utils.io import content_hash
from ..utils.ranks import Ranks, Stopped
from .distributed import ABORTED, StopCallback
from .recipe import with_model


class Run:
    """A recipe under way.

    Attributes:
        workflow: The stock workflow that phases delegate to.
        ranks: All ranks of the run.
        callbacks: LLaMA-Factory's callbacks, and the one that stops training where the run can be taken up again.
        output_dir: The recipe's ``output_dir``.
        folder: ``<output_dir>/clinkd``.
        phases: The phases chosen, in order.
        model_folder: Where the last training phase wrote its model; ``None`` before.
        resumes: Whether the present phase continues an earlier attempt.
    """

    def __init__(
        self, workflow: Any, arguments: Any, callbacks: list[Any], output_dir: Path, phases: list[str], ranks: Ranks
    ) -> None:
        self.workflow = workflow
        self.ranks = ranks
        self._stock_callbacks = callbacks
        self.callbacks = callbacks
        self.callbacks = self.callbacks_with(StopCallback(ranks, self.was_aborted))
        self.output_dir = output_dir
        self.folder = output_dir / "clinkd"
        self.phases = phases
        self.model_folder: Path | None = None
        self.resumes = False
        self._arguments = arguments

    @property
    def recipe(self) -> Any:
        """The recipe with the model that the phases so far have made."""
        return with_model(self._arguments, self.model_folder)

    @property
    def settings(self) -> Any:
        """The ClinKD keys."""
        return self._arguments.finetuning

    def folder_of(self, phase: str) -> Path:
        """Where a training phase writes its model: ``output_dir`` for the last one."""
        trains = [name for name in self.phases if name in TRAINING_PHASES]
        return self.output_dir if trains and trains[-1] == phase else self.folder / phase

    def is_last_training(self, phase: str) -> bool:
        """Whether this phase makes the model that the recipe asks for."""
        return self.folder_of(phase) == self.output_dir

    def relative(self, path: Path) -> str:
        """A path as it is recorded in the state."""
        return str(path.relative_to(self.output_dir))

    def outputs_exist(self, outputs: list[str]) -> bool:
        """Whether everything a finished phase wrote is still there."""
        return all((self.output_dir / name).exists() for name in outputs)

    def forget_unless_resumed(self, phase: str) -> None:
        """Removes what an attempt with other inputs left in the phase's folder."""
        if not self.resumes and self.ranks.rank == 0 and (self.folder / phase).is_dir():
            shutil.rmtree(self.folder / phase)
        self.ranks.wait("the old files")

    def was_aborted(self) -> bool:
        """Whether LLaMA Board asked to stop."""
        return any(getattr(callback, "aborted", False) for callback in self._stock_callbacks)

    def should_stop(self) -> bool:
        """Whether to leave at the next place where the run can be taken up again."""
        if self.was_aborted():
            self.ranks.request_stop(ABORTED)
        return bool(self.ranks.stop_reason())

    def leave_if_asked(self, where: str) -> None:
        """Leaves where nothing is under way.

        Raises:
            Stopped: If this rank was asked to stop.
        """
        if self.should_stop():
            raise Stopped(where)

    def callbacks_with(self, *extra: Any) -> list[Any]:
        """LLaMA-Factory's callbacks with more of them before the last one, which must stay last."""
        return [*self.callbacks[:-1], *extra, *self.callbacks[-1:]]

    def student_positions(self, arguments: Any) -> Any:
        """What gives a loaded student its rotary positions."""
        return lambda model: apply_saved_positions(model, arguments.model, arguments.finetuning)


def seeded_subset(size: int, wanted: int, seed: int, purpose: str) -> list[int]:
    """``min(wanted, size)`` distinct row numbers in ascending order, the same on every machine for the same seed.

    Rows are ordered by a hash of seed, purpose and number, so the choice does not depend on a random generator.
    """
    if wanted >= size:
        return list(range(size))
    order = sorted(range(size), key=lambda index: content_hash([seed, purpose, index]))
    return sorted(order[:wanted])


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
