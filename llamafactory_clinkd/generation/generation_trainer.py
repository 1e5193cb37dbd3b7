# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A stock trainer whose ``predict`` is :func:`generate_rows`: stock ``run_sft`` loads model and data, and calls it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from llamafactory.data.template import ReasoningTemplate
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from transformers.trainer_utils import PredictionOutput

from ..utils.ranks import Ranks
from . import generate_rows


class ModelElsewhere(torch.nn.Module):
    """In place of a model that only a server has: its configuration, for stock's ``run_sft``, and no weights."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


class GeneratingTrainer(CustomSeq2SeqTrainer):
    """Generates answers into a JSONL file; ``out_path``, ``num_candidates``, ``should_stop``: see `generate_rows`.

    ``row_keys`` returns the unique key of each row once the data is loaded. ``generation`` overrides the recipe's
    generation arguments. ``served`` answers the ``aligned`` rows instead of the model. ``when_done`` gets the
    rows on rank 0, while the other ranks wait, and returns metrics.
    """

    def __init__(
        self,
        *,
        out_path: Path,
        row_keys: Callable[[], Sequence[str]],
        num_candidates: int,
        generation: dict[str, Any],
        title: str,
        when_done: Callable[[Sequence[dict[str, Any]]], dict[str, float]],
        ranks: Ranks,
        should_stop: Callable[[], bool],
        served: Any = None,
        aligned: Callable[[], Any] = lambda: None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._row_keys, self._when_done = row_keys, when_done
        self._generation, self._title, self._ranks = generation, title, ranks
        self._served, self._aligned = served, aligned
        self._options = {"out_path": out_path, "num_candidates": num_candidates, "should_stop": should_stop}

    def predict(self, test_dataset: Any, ignore_keys: Any = None, metric_key_prefix: str = "test", **gen_kwargs: Any):
        """Generates for every row of ``test_dataset``; returns counts, not tensors."""
        rows = generate_with_trainer(
            self,
            self.model_for_generation(),
            test_dataset,
            self.data_collator,
            self._row_keys(),
            gen_kwargs={**gen_kwargs, **self._generation},
            title=self._title,
            ranks=self._ranks,
            served=self._served,
            aligned=self._aligned,
            **self._options,
        )
        metrics = {"rows": len(rows)}
        if self.is_world_process_zero():
            metrics["failed"] = sum("error" in row for row in rows)
            with self._ranks.long_running(f"{self._title}, gathered"):
                metrics |= self._when_done(rows)
        self._ranks.wait(f"{self._title}, gathered")
        return PredictionOutput(None, None, {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})

    def save_predictions(self, dataset: Any, predict_results: Any, skip_special_tokens: bool = True) -> None:
        """Does nothing: the answers are in ``out_path`` already."""

    def model_for_generation(self) -> Any:
        """The model on its device; under DeepSpeed or FSDP prepared as in the stock evaluation loop."""
        if not shards_parameters(self):
            return self.model
        if self.is_deepspeed_enabled and self.deepspeed is None:
            from transformers.integrations.deepspeed import deepspeed_init

            deepspeed_init(self, num_training_steps=0, inference=True)
        if self.accelerator.is_fsdp2:  # accelerate shards a model only together with an optimizer of its parameters
            return self.accelerator.prepare(self.model, torch.optim.SGD(self.model.parameters(), lr=0.0))[0]
        return self.accelerator.prepare(self.model)


def generate_with_trainer(
    trainer: Any,
    model: Any,
    dataset: Any,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    row_ids: Sequence[str],
    *,
    title: str,
    ranks: Ranks,
    served: Any = None,
    aligned: Callable[[], Any] = lambda: None,
    **options: Any,
) -> Sequence[dict[str, Any]]:
    """:func:`generate_rows` with the tokenizer, batch size, ranks, seed and progress bar of a trainer.

    With a ``ServedModel``, a server answers the ``aligned`` rows (:func:`generate_by_server`). It must read them as
    ``dataset`` has them, and serve ``model``, unless that is a :class:`ModelElsewhere`.
    """
    args, tokenizer = trainer.args, trainer.processing_class
    if served is not None:
        from .chat_rows import ChatRows
        from .served_answers import first_tokens, generate_by_server
        from .served_prompts import Prompts

        collator = trainer.data_collator
        image_token = getattr(collator.template.mm_plugin, "image_token", None)
        image_id = tokenizer.convert_tokens_to_ids(image_token) if image_token else None
        if isinstance(collator.template, ReasoningTemplate):
            served.template_options = {"enable_thinking": bool(collator.template.enable_thinking)}
        here = not isinstance(model, ModelElsewhere)
        return generate_by_server(
            served,
            ChatRows(aligned(), collator.template, collator.processor),
            row_ids,
            process_index=args.process_index,
            num_processes=args.world_size,
            barrier=lambda: ranks.wait(title),
            progress=None if args.disable_tqdm else title,
            seed=args.seed,
            expected=first_tokens(model, tokenizer, dataset, collate) if here else None,
            prompts=Prompts(lambda index: list(dataset[index]["input_ids"]), tokenizer, image_id),
            eos_token=tokenizer.eos_token or "",
            **options,
        )
    return generate_rows(
        model,
        tokenizer,
        dataset,
        collate,
        row_ids,
        batch_size=args.per_device_eval_batch_size,
        process_index=args.process_index,
        num_processes=args.world_size,
        barrier=lambda: ranks.wait(title),
        progress=None if args.disable_tqdm else title,
        synced_gpus=shards_parameters(trainer),
        seed=args.seed,
        **options,
    )


def shards_parameters(trainer: Any) -> bool:
    """Whether all ranks must run the trainer's model together (DeepSpeed ZeRO-3, FSDP)."""
    if trainer.is_deepspeed_enabled:
        return trainer.accelerator.state.deepspeed_plugin.zero_stage == 3
    return bool(trainer.is_fsdp_enabled)
