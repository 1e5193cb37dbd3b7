# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The trainer of the correction rounds: supervised fine-tuning in which a round may begin with corrected rows."""

import logging
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import ceil
from typing import Any

import torch
from datasets import concatenate_datasets
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import TrainerCallback

from ..training.sft_trainer import REPEATED, SupervisedTrainer
from ..training.tracked_data import ROW_NUMBER


class CorrectedFirst(Sampler[int]):
    """Order of a round: the corrected rows as they come, then the others in a seeded random order.

    Args:
        corrected: Number of corrected rows, the first of the data set.
        others: Number of the rows after them.
        seed: Of the random order; the same on every rank.
        shuffle: Whether the others are shuffled.
    """

    def __init__(self, corrected: int, others: int, seed: int, shuffle: bool) -> None:
        self._corrected = corrected
        self._others = others
        self._generator = torch.Generator().manual_seed(seed)
        self._shuffle = shuffle

    def __len__(self) -> int:
        return self._corrected + self._others

    def __iter__(self):
        order = (
            torch.randperm(self._others, generator=self._generator) if self._shuffle else torch.arange(self._others)
        )
        yield from range(self._corrected)
        yield from (order + self._corrected).tolist()


class RoundsTrainer(SupervisedTrainer):
    """Trains round after round with one optimizer and one schedule.

    Args:
        corrected_rows: Tokenised corrected rows that join round ``n`` (1 for the first after a correction).
        recorder: Keeps the argmax of the training logits (``correction_outputs: forward``), or ``None``.
        **kwargs: What :class:`SupervisedTrainer` takes.
    """

    def __init__(self, *, corrected_rows: Callable[[int], Any], recorder: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._corrected_rows = corrected_rows
        self._recorder = recorder
        self._row_numbers: list[int] = []
        self._planned_steps = 0
        self._steps: list[int] = []

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss; the rows' numbers, which only the recorder wants, do not reach the model."""
        numbers = inputs.pop(ROW_NUMBER, None)
        self._row_numbers = [] if numbers is None else numbers.tolist()
        repeated = inputs.get(REPEATED, 0)
        if repeated:  # these rows are recorded where they stand the first time
            self._row_numbers[-repeated:] = [-1] * repeated
        return super().compute_loss(model, inputs, *args, **kwargs)

    def on_logits(
        self, kept: torch.Tensor, targets: torch.Tensor, logits_of: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Records what the model would say at the supervised positions, at no further pass of the model."""
        if self._recorder is not None and self.model.training and self._row_numbers:
            self._recorder.record(int(self.state.epoch or 0) + 1, self._row_numbers, kept, targets, logits_of)

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple:
        """Stock's plan; with rounds that are longer already (a resumed run) the total is theirs."""
        values = super().set_initial_training_values(args, dataloader)
        rounds, self._planned_steps = values[0], values[1]
        self._steps = [self._planned_steps] * rounds
        for number in range(1, rounds):
            rows = self._corrected_rows(number)
            if rows is not None:
                self._steps[number] = update_steps(
                    len(self._round_loader(rows, number)), args.gradient_accumulation_steps
                )
        return (*values[:6], sum(self._steps))

    def _init_training_state(self, max_steps: int, steps_per_epoch: int, epochs: int, checkpoint: Any, trial: Any):
        """Stock's state; rounds of unequal length put the resumed step into another round than stock would."""
        super()._init_training_state(max_steps, steps_per_epoch, epochs, checkpoint, trial)
        number, done = round_of_step(self.state.global_step, self._steps)
        skipped = 0 if self.args.ignore_data_skip else done * self.args.gradient_accumulation_steps
        return number, skipped

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Stock's schedule for the planned steps, followed by progress."""
        scheduler = super().create_scheduler(self._planned_steps * len(self._steps), optimizer)
        if isinstance(scheduler, LambdaLR):
            scheduler.lr_lambdas = [stretched(each, self._steps, self._planned_steps) for each in scheduler.lr_lambdas]
        return scheduler

    def _run_epoch(self, *, epoch: int, train_dataloader: Any, **kwargs: Any) -> None:
        """One round; its steps are counted anew if corrected rows come first."""
        rows = self._corrected_rows(epoch) if epoch > 0 else None
        if rows is not None:
            train_dataloader = self._round_loader(rows, epoch)
            kwargs["steps_in_epoch"] = len(train_dataloader)
            steps = update_steps(len(train_dataloader), self.args.gradient_accumulation_steps)
            kwargs["num_update_steps_per_epoch"] = self._steps[epoch] = steps
            self._tell_total(sum(self._steps))
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def _round_loader(self, rows: Any, number: int) -> Any:
        """The dataloader of a round whose corrected rows come first."""
        stock = self.train_dataset
        sampler = CorrectedFirst(
            len(rows),
            len(stock),
            seed=(self.args.data_seed or self.args.seed) + number,
            shuffle=not self.finetuning_args.disable_shuffling,
        )
        self.train_dataset = concatenate_datasets([rows, stock])
        self._get_train_sampler = lambda *args, **kwargs: sampler
        try:
            return self.get_train_dataloader()
        finally:
            self.train_dataset = stock
            del self._get_train_sampler

    def _tell_total(self, total: int) -> None:
        """Progress bars and logs hold the planned number of steps; they are told the actual one."""
        planned = self.state.max_steps
        self.state.max_steps = total
        for callback in self.callback_handler.callbacks:
            if getattr(callback, "max_steps", None) == planned:
                callback.max_steps = total
            bar = getattr(callback, "training_bar", None)
            if bar is not None:
                bar.total = total
                bar.refresh()


logger = logging.getLogger(__name__)


class ReflectiveCorrectionCallback(TrainerCallback):
    """Runs ``correct`` before every round but the first, on all ranks together.

    It happens at the *beginning* of a round, after the checkpoint that closes the one before: a run that dies in the
    middle of a correction resumes at that checkpoint and goes on with the correction, with nothing trained twice.

    Args:
        correct: Called with the number of the round that ended, 1 for the first; records, judges, corrects.
        flush: Called before a checkpoint counts the steps so far as done.
    """

    def __init__(self, correct: Callable[[int], None], flush: Callable[[], None] = lambda: None) -> None:
        self._correct = correct
        self._flush = flush

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Corrects what the round before left wrong."""
        ended = int(state.epoch or 0)
        if ended > 0:
            logger.info("Reflective Correction after round %d.", ended)
            self._correct(ended)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Flushes before every checkpoint."""
        if control.should_save:
            self._flush()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Closes a round with a checkpoint, unless the recipe keeps none."""
        self._flush()
        if str(args.save_strategy.value) != "no":
            control.should_save = True


def update_steps(batches: int, accumulation: int) -> int:
    """Optimizer steps of a round of ``batches`` micro-batches (the last step may have fewer)."""
    return max(1, ceil(batches / accumulation))


def round_of_step(step: int, steps: Sequence[int]) -> tuple[int, int]:
    """The round that optimizer step ``step`` (0-based) belongs to, and the steps of it that are done.

    Args:
        step: Steps done so far, ``0 <= step <= sum(steps)``.
        steps: Steps of each round.

    Returns:
        ``(round, done)``; at the very end ``(len(steps), 0)``.
    """
    starts = [0, *accumulate(steps)]
    for index in range(len(steps)):
        if step < starts[index + 1]:
            return index, step - starts[index]
    return len(steps), 0


def planned_step(step: int, steps: Sequence[int], planned: int) -> float:
    """Where step ``step`` of the actual rounds stands in the plan of ``planned`` steps a round.

    Equal to ``step`` as an integer while every round so far is as long as planned.
    """
    index, done = round_of_step(step, steps)
    if index == len(steps):
        return index * planned + (step - sum(steps))
    if steps[index] == planned:
        return index * planned + done
    return index * planned + done * planned / steps[index]


def stretched(schedule: Callable[[float], float], steps: Sequence[int], planned: int) -> Callable[[int], float]:
    """A learning-rate multiplier over actual steps; ``steps`` is read at each call, so that rounds may grow."""
    return lambda step: schedule(planned_step(step, steps, planned))
