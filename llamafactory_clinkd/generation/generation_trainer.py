# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A stock trainer whose ``predict`` is batched, sharded and resumable row by row.

Pseudo-labels and prediction run through stock ``run_sft`` with ``do_predict``: LLaMA-Factory loads model and data, and
hands them over here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from transformers.trainer_utils import PredictionOutput

from ..utils.ranks import Ranks
from . import generate_rows


class GeneratingTrainer(CustomSeq2SeqTrainer):
    """Generates answers into a JSONL file.

    Args:
        out_path: Where :func:`generate_rows` keeps the answers.
        row_keys: Called once the data is loaded; the unique key of each row of the predicted data set, in its order.
        num_candidates: Answers per row.
        generation: Changes to the recipe's generation keyword arguments.
        title: Of the progress bar.
        when_done: Called on rank 0 with the rows of :func:`generate_rows`; the other ranks wait.
        ranks: All ranks of the run.
        should_stop: Asked between two batches.
        **kwargs: What stock's trainer takes.
    """

    def __init__(
        self,
        *,
        out_path: Path,
        row_keys: Callable[[], list[str]],
        num_candidates: int,
        generation: dict[str, Any],
        title: str,
        when_done: Callable[[list[dict[str, Any]]], dict[str, float]],
        ranks: Ranks,
        should_stop: Callable[[], bool],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._out_path = out_path
        self._row_keys = row_keys
        self._num_candidates = num_candidates
        self._generation = generation
        self._title = title
        self._when_done = when_done
        self._ranks = ranks
        self._should_stop = should_stop

    def predict(self, test_dataset: Any, ignore_keys: Any = None, metric_key_prefix: str = "test", **gen_kwargs: Any):
        """Generates for every row of ``test_dataset``; returns counts, not tensors."""
        rows = generate_rows(
            self.model_for_generation(),
            self.processing_class,
            test_dataset,
            self.data_collator,
            self._row_keys(),
            self._out_path,
            gen_kwargs={**gen_kwargs, **self._generation},
            num_candidates=self._num_candidates,
            batch_size=self.args.per_device_eval_batch_size,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
            barrier=lambda: self._ranks.wait(self._title),
            should_stop=self._should_stop,
            progress=self._title if not self.args.disable_tqdm else None,
            synced_gpus=shards_parameters(self),
            seed=self.args.seed,
        )
        metrics = {
            f"{metric_key_prefix}_rows": len(rows),
            f"{metric_key_prefix}_failed": sum("error" in row for row in rows),
        }
        if self.is_world_process_zero():
            with self._ranks.long_running(f"{self._title}, gathered"):
                found = self._when_done(rows)
            metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        self._ranks.wait(f"{self._title}, gathered")
        return PredictionOutput(predictions=None, label_ids=None, metrics=metrics)

    def save_predictions(self, dataset: Any, predict_results: Any, skip_special_tokens: bool = True) -> None:
        """Everything is in ``out_path`` already."""

    def model_for_generation(self) -> Any:
        """The model on its device; under DeepSpeed or FSDP prepared the way stock's evaluation loop does it."""
        if not shards_parameters(self):
            return self.model
        if self.is_deepspeed_enabled and self.deepspeed is None:
            from transformers.integrations.deepspeed import deepspeed_init

            deepspeed_init(self, num_training_steps=0, inference=True)
        if self.accelerator.is_fsdp2:  # accelerate shards a model only beside an optimizer of its parameters
            return self.accelerator.prepare(self.model, torch.optim.SGD(self.model.parameters(), lr=0.0))[0]
        return self.accelerator.prepare(self.model)


def shards_parameters(trainer: Any) -> bool:
    """Whether every rank must run the trainer's model together (DeepSpeed ZeRO-3, FSDP)."""
    if trainer.is_deepspeed_enabled:
        return trainer.accelerator.state.deepspeed_plugin.zero_stage == 3
    return bool(trainer.is_fsdp_enabled)
