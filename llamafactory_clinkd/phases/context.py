# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The state that the phases of one run share: recipe, folders, callbacks, ranks."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..arguments import PHASES, TRAINING_PHASES
from ..generation.generation_trainer import GeneratingTrainer
from ..rope.saved_positions import apply_saved_positions
from ..training.tracked_data import DescribedRows, TrackedData, seeded_subset
from ..utils.console import bars_of_parts, console
from ..utils.ranks import Ranks, Stopped
from .checkpoints import last_whole_checkpoint, unsaved_state
from .content import ContentHashes
from .recipe import RecipeArguments, is_adapter, phase_arguments, with_model
from .run_log import TrainingBar
from .served import served_model
from .stock_sft import StockWorkflow
from .stopping import ABORTED, StopCallback


class Run:
    """One run of a recipe, with the stock workflow that its phases delegate to."""

    def __init__(
        self, workflow: StockWorkflow, arguments: RecipeArguments, callbacks: list[Any], ranks: Ranks
    ) -> None:
        self.workflow = workflow
        self.ranks = ranks
        self._arguments = arguments
        self._callbacks = callbacks
        self._stop_callback = StopCallback(ranks, self.was_aborted)
        self.output_dir = Path(arguments.training.output_dir)
        self.folder = self.output_dir / "clinkd"
        self.phases = [phase for phase in PHASES if phase in arguments.finetuning.clinkd_phases]
        self.model_folder: Path | None = None  # where the last training phase wrote its model
        self.hashes = ContentHashes(self.folder / "content_hashes.json")  # of the files that the recipe names
        self.resumes = False  # whether the current phase continues an earlier attempt

    @property
    def recipe(self) -> RecipeArguments:
        """The recipe, with the model that the latest training phase wrote."""
        return with_model(self._arguments, self.model_folder)

    @property
    def settings(self) -> Any:
        """The ClinKD keys."""
        return self._arguments.finetuning

    @property
    def trains_adapter(self) -> bool:
        """Whether a training phase writes an adapter, not a whole model."""
        return is_adapter(self.settings.finetuning_type)

    def folder_of(self, phase: str) -> Path:
        """Where a training phase writes its model: ``output_dir`` for the last one."""
        training = [name for name in self.phases if name in TRAINING_PHASES]
        return self.output_dir if training and training[-1] == phase else self.folder / phase

    def relative(self, path: Path) -> str:
        """A path as it is recorded in the state."""
        return str(path.relative_to(self.output_dir))

    def outputs_exist(self, outputs: list[str]) -> bool:
        """Whether every output of a finished phase still exists."""
        return all((self.output_dir / name).exists() for name in outputs)

    def training_arguments(self, phase: str, epochs: float) -> RecipeArguments:
        """A training phase's recipe, which resumes from a whole checkpoint; only the final model goes to the hub."""
        folder, recipe = self.folder_of(phase), self.recipe
        resumes = self.resumes and unsaved_state(recipe.finetuning) is None
        checkpoint = last_whole_checkpoint(folder) if resumes else None
        return phase_arguments(
            recipe,
            folder,
            num_train_epochs=epochs,
            do_train=True,
            do_predict=False,
            predict_with_generate=False,
            push_to_hub=recipe.training.push_to_hub and folder == self.output_dir,
            resume_from_checkpoint=None if checkpoint is None else str(checkpoint),
        )

    def run_sft(
        self,
        arguments: RecipeArguments,
        make_trainer: Callable[..., Any],
        data: TrackedData,
        *,
        after_load: Callable[[Any], Any] | None = None,
        elsewhere: bool = False,
    ) -> None:
        """One stock SFT run, see :meth:`.stock_sft.StockWorkflow.run`.

        By default the loaded model gets the student's rotary positions. With ``elsewhere``, no
        weights are loaded.
        """

        def set_positions(model: Any) -> Any:
            return apply_saved_positions(model, arguments.model, arguments.finetuning)

        quiet = self.ranks.rank > 0 or arguments.training.disable_tqdm
        try:
            with bars_of_parts(None if quiet else console) as show:
                own = (self._stop_callback, TrainingBar(show, self.ranks.phase))
                self.workflow.run(
                    arguments,
                    [*self._callbacks[:-1], *own, *self._callbacks[-1:]],
                    make_trainer=make_trainer,
                    data=data,
                    after_load=after_load or set_positions,
                    image_square=self.settings.image_square,
                    elsewhere=elsewhere,
                )
        except RuntimeError as error:
            # A scheduler's SIGTERM also ends the forked workers of `datasets`, which reports them as crashed.
            if self.should_stop() and "subprocesses has abruptly died" in str(error):
                raise Stopped("while rows were tokenized") from error
            raise

    def generate(
        self,
        phase: str,
        arguments: RecipeArguments,
        data: TrackedData,
        *,
        finish: Callable[[Sequence[dict[str, Any]], Sequence[dict[str, Any]]], dict[str, float]],
        check_rows: Callable[[Sequence[dict[str, Any]]], None] = lambda rows: None,
        after_load: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        """Generates into ``clinkd/<phase>/answers.jsonl``; an attempt with other inputs is removed first.

        ``check_rows`` gets the described rows first; ``finish`` gets rows and answers on rank 0 and returns metrics.
        """
        folder, served = self.folder / phase, served_model(self.settings, phase)

        def described() -> DescribedRows:
            return DescribedRows(data.aligned(is_eval=True))

        def row_keys() -> Sequence[str]:
            check_rows(described())
            return described().keys()

        if not self.resumes and self.ranks.rank == 0 and folder.is_dir():
            shutil.rmtree(folder)
        self.ranks.wait("removal of old answers")
        trainer = partial(
            GeneratingTrainer,
            out_path=folder / "answers.jsonl",
            row_keys=row_keys,
            when_done=lambda answers: finish(described(), answers),
            ranks=self.ranks,
            should_stop=self.should_stop,
            served=served,
            aligned=lambda: data.aligned(is_eval=True),
            **options,
        )
        elsewhere = served is not None and phase == "pseudo_label"
        self.run_sft(arguments, trainer, data, after_load=after_load, elsewhere=elsewhere)

    def was_aborted(self) -> bool:
        """Whether LLaMA Board's Abort was pressed."""
        return any(getattr(callback, "aborted", False) for callback in self._callbacks)

    def should_stop(self) -> bool:
        """Whether to stop at the next point from which the run can resume."""
        if self.was_aborted():
            self.ranks.request_stop(ABORTED)
        return bool(self.ranks.stop_reason())

    def stop_if_requested(self, location: str) -> None:
        """Raises ``Stopped`` here, where no work is in progress, if a stop was requested."""
        if self.should_stop():
            raise Stopped(location)

    def choose_subset(self, rows: Any) -> Any:
        """The ``pseudo_label_samples`` rows that the teacher labels and the student is distilled on (section 4.1)."""
        count, seed = self.settings.pseudo_label_samples, self.recipe.training.seed
        return rows.select(seeded_subset(len(rows), count, seed, "pseudo_label"))

    def require_images(self, rows: Sequence[dict[str, Any]]) -> None:
        """Raises ValueError if the positions need images and no described row has one."""
        if self.settings.rope_variant != "mrope" and not any(row["image"] for row in rows):
            raise ValueError(
                "The data set has no images: no row has a path in its `images` column. Set `columns: {images: "
                "images}` in `dataset_info.json`. To distil text-only data, set `rope_variant: mrope`."
            )
