# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The trainer of the correction rounds: supervised fine-tuning in which a round may begin with corrected rows.

A round is an epoch. One optimizer and one learning-rate schedule span all rounds; a round that corrections make longer
takes the same part of the schedule as a planned one.

With ``correction_outputs: forward`` the answers to judge are the argmax of the training logits. With teacher forcing
each token is the model's first choice after the *true* beginning of the answer, so these answers are better than those
that the model would generate.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import concatenate_datasets
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from ..training.lm_head import IGNORE_INDEX
from ..training.sft_trainer import REPEATED, SupervisedTrainer
from ..training.tracked_data import ROW_NUMBER
from ..utils.io import JsonlRows, append_jsonl, placed_rows, write_jsonl
from .round_steps import StepsOfRounds, round_of_step, stretched, update_steps


logger = logging.getLogger(__name__)
CHUNK_ROWS = 128  # of logits at once


class CorrectionTrainer(SupervisedTrainer):
    """Trains the rounds; before each but the first, corrected rows join the data set.

    ``correct`` runs Reflective Correction after a round, numbered from 1, on all ranks together; that round ends with
    a checkpoint, at which a run that is killed during a correction resumes. ``corrected_rows`` maps a round, from 0,
    to its tokenised corrected rows, ``None`` for none. ``recorder`` is an :class:`ArgmaxRecorder` with
    ``correction_outputs: forward``, else ``None``.
    """

    def __init__(
        self,
        *,
        correct: Callable[[int], None],
        corrected_rows: Callable[[int], Any],
        recorder: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._correct = correct
        self._corrected_rows = corrected_rows
        self._recorder = recorder
        self._row_numbers: list[int] = []
        self._planned_steps = 0
        self._steps: list[int] = []  # of each round
        self._planned_loader: dict[str, Any] | None = None
        self.add_callback(ReflectiveCorrectionCallback(self.begin_round, self.flush))

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss; removes the row numbers, which only the recorder needs, from the model's inputs."""
        numbers = inputs.pop(ROW_NUMBER, None)
        self._row_numbers = [] if numbers is None else numbers.tolist()
        repeated = inputs.get(REPEATED, 0)
        if repeated:  # these rows are recorded where they occur first
            self._row_numbers[-repeated:] = [-1] * repeated
        return super().compute_loss(model, inputs, *args, **kwargs)

    def on_logits(
        self, supervised_idx: torch.Tensor, targets: torch.Tensor, logits_of: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Records the argmax at the supervised positions."""
        if self._recorder is not None and self.model.training and self._row_numbers:
            number = int(self.state.epoch or 0) + 1
            self._recorder.record(number, self._row_numbers, supervised_idx, targets, logits_of)

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> tuple:
        """Stock's plan; in a resumed run, rounds that are already longer count with their real steps."""
        rounds, self._planned_steps, *others = super().set_initial_training_values(*args, **kwargs)
        self._steps = [self._planned_steps] * rounds
        for number in range(1, rounds):
            if (rows := self._corrected_rows(number)) is not None:
                self._steps[number] = self._count_steps(self._round_dataloader(rows, number))
        return (rounds, StepsOfRounds(self._planned_steps, self._steps), *others[:-1], sum(self._steps))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Stock's schedule for the planned steps, stretched over longer rounds."""
        scheduler = super().create_scheduler(self._planned_steps * len(self._steps), optimizer)
        if isinstance(scheduler, LambdaLR):
            scheduler.lr_lambdas = [stretched(each, self._steps, self._planned_steps) for each in scheduler.lr_lambdas]
        return scheduler

    def begin_round(self) -> None:
        """Corrects before every round but the first, and gives the loop's dataloader the round's rows.

        The loop of transformers 5.0 to 5.2 keeps the dataloader in a local variable and reads its length at the
        beginning of an epoch; so the object stays, and gets the attributes of the round's own dataloader.
        """
        number, _ = round_of_step(self.state.global_step, self._steps)
        if number == len(self._steps):
            return
        if number > 0:
            logger.info("Reflective Correction after round %d.", number)
            self._correct(number)
        rows = self._corrected_rows(number) if number > 0 else None
        loader = self.callback_handler.train_dataloader
        if self._planned_loader is None:
            self._planned_loader = loader.__dict__
        loader.__dict__ = self._planned_loader if rows is None else self._round_dataloader(rows, number).__dict__
        self._steps[number] = self._planned_steps if rows is None else self._count_steps(loader)
        self._set_total_steps(sum(self._steps))

    def after_epoch(self) -> None:
        """Begins the next round.

        Raises:
            RuntimeError: If stock's loop did not train all batches of the round.
        """
        if self.control.should_training_stop:
            return
        number, done = round_of_step(self.state.global_step, self._steps)
        if done:
            raise RuntimeError(
                f"Round {number + 1} ended after {done} of {self._steps[number]} steps: this version of transformers "
                "does not train rounds of unequal length. Install another one: `clinkd doctor` shows the supported."
            )
        self.begin_round()

    def _run_epoch(self, *, epoch: int, train_dataloader: Any, **kwargs: Any) -> None:
        """Stock's, with the round's number of steps, from transformers 5.3 on; earlier loops count by themselves."""
        if self._corrected_rows(epoch) is not None:
            kwargs["steps_in_epoch"] = len(train_dataloader)
            kwargs["num_update_steps_per_epoch"] = self._steps[epoch]
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def flush(self) -> None:
        """Writes recorded answers to disk, before a checkpoint counts their steps as done."""
        if self._recorder is not None:
            self._recorder.flush()

    def _round_dataloader(self, corrected: Any, number: int) -> Any:
        """The dataloader of a round whose corrected rows come first."""
        stock = self.train_dataset
        seed = (self.args.data_seed or self.args.seed) + number
        shuffle = not self.finetuning_args.disable_shuffling
        order = corrected_first(len(corrected), len(stock), seed=seed, shuffle=shuffle)
        self.train_dataset = concatenate_datasets([corrected, stock])
        self._get_train_sampler = lambda *args, **kwargs: order
        try:
            return self.get_train_dataloader()
        finally:
            self.train_dataset = stock
            del self._get_train_sampler

    def _count_steps(self, dataloader: Any) -> int:
        return update_steps(len(dataloader), self.args.gradient_accumulation_steps)

    def _set_total_steps(self, total: int) -> None:
        """Replaces the planned number of steps in the state, in progress bars and in logs."""
        planned = self.state.max_steps
        self.state.max_steps = total
        for callback in self.callback_handler.callbacks:
            if getattr(callback, "max_steps", None) == planned:
                callback.max_steps = total
            bar = getattr(callback, "training_bar", None)
            if bar is not None:
                bar.total = total
                bar.refresh()


class ReflectiveCorrectionCallback(TrainerCallback):
    """Begins the first round of a run, flushes before every checkpoint, and ends every round with one."""

    def __init__(self, begin: Callable[[], None], flush: Callable[[], None]) -> None:
        self._begin, self._flush = begin, flush

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins the first round, or the one that a resumed run is in; the others begin after an epoch."""
        self._begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Flushes before every checkpoint."""
        if control.should_save:
            self._flush()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends a round with a checkpoint, unless the recipe keeps none."""
        self._flush()
        if str(args.save_strategy.value) != "no":
            control.should_save = True


class ArgmaxRecorder:
    """Records the argmax answer of each training row to ``round-N.forward.rank<i>.jsonl``.

    Only the answer of the last turn is recorded, up to the tokenizer's end-of-sequence token. A row that is trained
    again after a resume is recorded again; the last record counts. ``folder`` is ``clinkd/corrections``.
    """

    def __init__(self, folder: Path, tokenizer: Any, training: Any) -> None:
        self._folder = folder
        self._tokenizer = tokenizer
        self._rank = training.process_index
        self._unwritten: dict[int, list[dict[str, Any]]] = {}

    @torch.no_grad()
    def record(
        self,
        number: int,
        rows: list[int],  # [B] row numbers; -1 is not recorded
        supervised_idx: torch.Tensor,  # [K] positions that are supervised in any row
        targets: torch.Tensor,  # [B, K] next tokens, -100 where a row is not supervised
        logits_of: Callable[[torch.Tensor], torch.Tensor],  # indices [N] into the flattened [B * K] -> logits [N, V]
    ) -> None:
        """Records one batch of round ``number``, counted from 1."""
        width = targets.shape[1]
        for index, row in enumerate(rows):
            if row < 0:
                continue
            columns = answer_columns(supervised_idx, targets[index], self._tokenizer.eos_token_id)
            tokens: list[int] = []
            for chunk in columns.split(CHUNK_ROWS) if columns.numel() else ():
                tokens += logits_of(index * width + chunk).argmax(dim=-1).tolist()
            text = self._tokenizer.decode(tokens, skip_special_tokens=False).strip()
            self._unwritten.setdefault(number, []).append({"row": row, "text": text})

    def flush(self) -> None:
        """Writes the recorded answers to disk."""
        for number, records in self._unwritten.items():
            append_jsonl(self._folder / f"round-{number}.forward.rank{self._rank}.jsonl", records)
        self._unwritten.clear()

    def collect(self, number: int, rows: Sequence[int], keys: Sequence[str]) -> Sequence[dict[str, Any]]:
        """The answers of a round as :func:`llamafactory_clinkd.generation.generate_rows` returns them.

        All ranks call it together, with row numbers and the rows' keys. Rank 0 writes ``round-N.outputs.jsonl`` and
        has the answers, the others have none.
        """
        self.flush()
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if self._rank > 0:
            return []
        paths = sorted(self._folder.glob(f"round-{number}.forward.rank*.jsonl"))
        places = np.full(max(rows, default=-1) + 1, -1)  # of a row's last record: offset and number of the file
        for file, path in enumerate(paths):
            for offset, record in placed_rows(path):
                if record["row"] < len(places):
                    places[record["row"]] = offset * len(paths) + file

        def answers() -> Iterator[dict[str, Any]]:
            with ExitStack() as stack:
                files = [stack.enter_context(open(path, "rb")) for path in paths]
                for row, key in zip(rows, keys, strict=True):
                    candidates = []
                    if places[row] >= 0:
                        offset, file = divmod(int(places[row]), len(paths))
                        files[file].seek(offset)
                        candidates = [{"text": json.loads(files[file].readline())["text"], "logprob": None}]
                    yield {"id": key, "candidates": candidates}

        out_path = self._folder / f"round-{number}.outputs.jsonl"
        write_jsonl(out_path, answers())
        return JsonlRows(out_path)


def answer_columns(supervised_idx: torch.Tensor, targets: torch.Tensor, eos_token_id: int) -> torch.Tensor:
    """Columns of one row's last answer: its last run of adjacent supervised positions, without end token.

    ``supervised_idx`` ``[K]`` ascends; ``targets`` ``[K]`` are next tokens, ``-100`` where the row is not supervised.
    """
    columns = (targets != IGNORE_INDEX).nonzero().flatten()
    gaps = (supervised_idx[columns].diff() > 1).nonzero().flatten()
    columns = columns[int(gaps[-1]) + 1 :] if gaps.numel() else columns
    ends = (targets[columns] == eos_token_id).nonzero().flatten()
    return columns[: int(ends[0])] if ends.numel() else columns


def corrected_first(corrected: int, others: int, *, seed: int, shuffle: bool) -> list[int]:
    """Indices of a round: the ``corrected`` first rows in order, then the ``others`` in a seeded random order.

    The order is the same on every rank; without ``shuffle`` it is that of the data set.
    """
    generator = torch.Generator().manual_seed(seed)
    rest = torch.randperm(others, generator=generator) if shuffle else torch.arange(others)
    return [*range(corrected), *(rest + corrected).tolist()]
