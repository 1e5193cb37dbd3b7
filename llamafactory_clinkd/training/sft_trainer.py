# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The base of ClinKD's trainers: LLaMA-Factory's SFT trainer with the head computed at the supervised positions only.

Differences from stock, each explained in ``docs/paper.md``: the loss is the mean over the supervised tokens of the
whole accumulation window and all ranks (stock averages micro-batch means for vision-language models); the head never
sees an unsupervised position; the terms of the loss are logged beside it; the load-balancing loss of a mixture of
experts is averaged over the window (stock adds it once a micro-batch for text models).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from torch.nn.functional import linear
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from ..utils.patching import patch_instance
from .lm_head import IGNORE_INDEX, check_unchanged, find_head, output_at, router_loss, supervised_positions


REPEATED = "clinkd_repeated"


class SupervisedTrainer(CustomSeq2SeqTrainer):
    """Supervised fine-tuning with ``hidden_loss``, called as :func:`llamafactory_clinkd.kd.distill_loss`.

    For heads that cannot be used directly there is ``logits_loss``, called as ``logits_distill_loss``.
    """

    def __init__(self, *, hidden_loss: Callable[..., Any], logits_loss: Callable[..., Any], **kwargs: Any) -> None:
        if kwargs.get("preprocess_logits_for_metrics") is not None:  # `compute_accuracy`: stock's takes full logits
            accuracy = kwargs["compute_metrics"]
            kwargs |= {"preprocess_logits_for_metrics": None, "compute_metrics": of_supervised_rows(accuracy)}
        super().__init__(**kwargs)
        self.model_accepts_loss_kwargs = True  # `compute_loss` gets the window's token count and divides by it
        self.accelerator.gradient_accumulation_steps = 1  # else transformers 5.2.0 to 5.5.3 divides a second time
        self._hidden_loss, self._logits_loss = hidden_loss, logits_loss
        self._head, self._restricts = find_head(self.accelerator.unwrap_model(self.model), "student")
        self._loss_terms: dict[str, torch.Tensor] = {}
        self._loss_terms_since_step = 0
        self._window = 1  # micro-batches of the accumulation window
        self._epoch_end = _EpochEnd()
        self.add_callback(self._epoch_end)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Any:
        """Supervised tokens of the accumulation window over all ranks; the first token of a row is never predicted."""
        self._mark_repeated(batch_samples)
        self._window = max(1, len(batch_samples))
        shifted = [
            {**batch, "labels": batch["labels"][: len(batch["labels"]) - batch.get(REPEATED, 0), 1:]}
            for batch in batch_samples
            if "labels" in batch
        ]
        return super()._get_num_items_in_batch(shifted, device)

    def _mark_repeated(self, batch_samples: list[dict[str, Any]]) -> None:
        """Counts the rows that accelerate repeats in an epoch's last batch, so that all ranks have equal batches."""
        state = self.accelerator.gradient_state
        if not batch_samples or not state.end_of_dataloader or state.remainder <= 0:
            return
        rows = len(batch_samples[-1]["labels"])
        real = state.remainder - self.args.process_index * rows
        batch_samples[-1][REPEATED] = rows - min(max(real, 0), rows)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of one micro-batch, a scalar whose sum over the window and mean over ranks is the loss of the step.

        With ``return_outputs`` and ``compute_accuracy`` the outputs hold ``predictions`` ``[B, L]`` int64: the most
        likely next token at every supervised position, -100 elsewhere. The loss is the same.
        """
        repeated = inputs.pop(REPEATED, 0)
        inputs = {key: value for key, value in inputs.items() if key != "num_items_in_batch"}
        labels = inputs.pop("labels")
        supervised_idx, targets = supervised_positions(labels)
        outputs: dict[str, torch.Tensor] = {}

        def read_logits(logits_of: Callable[[torch.Tensor], torch.Tensor]) -> None:
            self.on_logits(supervised_idx, targets, logits_of)
            if return_outputs and self.compute_metrics is not None:
                outputs["predictions"] = _first_choices(labels, supervised_idx, logits_of)

        loss_targets = targets.clone()
        loss_targets[len(targets) - repeated :] = IGNORE_INDEX
        loss_targets = loss_targets.flatten()
        with self.teacher_outputs(inputs, supervised_idx, targets) as teacher:
            if self._head is not None:

                def compute(hidden: torch.Tensor) -> Any:
                    head = self._head
                    read_logits(lambda rows: linear(hidden[rows], head.weight, head.bias))
                    return self.loss_of_hidden(hidden, loss_targets, teacher, num_items_in_batch)

                result, output = self._loss_in_head(model, inputs, supervised_idx, compute)
            else:
                output = output_at(model, inputs, supervised_idx, restricts=self._restricts)
                logits = output.logits.flatten(0, 1)
                read_logits(lambda rows: logits[rows])
                result = self.loss_of_logits(logits, loss_targets, teacher, num_items_in_batch)

        loss = result.loss
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        terms = self.logged_terms(result, num_items_in_batch or result.items.clamp(min=1)) if model.training else {}
        routers = router_loss(self.model, output)
        if routers is not None:
            routers = routers / (self._window if model.training else 1)
            loss = loss + routers
            terms["aux_loss"] = routers / self.accelerator.num_processes
        if model.training:
            if not self._loss_terms:  # also at the start of a resumed run
                self._loss_terms_since_step = self.state.global_step
            for name, value in terms.items():
                self._loss_terms[name] = self._loss_terms.get(name, 0.0) + value.detach().float()
        return (loss, outputs) if return_outputs else loss

    def _loss_in_head(
        self, model: torch.nn.Module, inputs: dict[str, Any], supervised_idx: torch.Tensor, compute: Callable[..., Any]
    ) -> tuple[Any, Any]:
        """``compute(hidden [B * K, H])`` inside the head module's call, where any engine has its weight whole."""
        results = []

        def forward(hidden: torch.Tensor) -> torch.Tensor:
            results.append(compute(hidden.flatten(0, 1)))
            return results[0].loss.view(1, 1, 1)

        with patch_instance(self._head, "forward", forward):
            output = model(**inputs, logits_to_keep=supervised_idx, use_cache=False)
        check_unchanged(self.model, output.logits, results[0].loss.view(1, 1, 1))
        return results[0]._replace(loss=output.logits.view(())), output

    def loss_of_hidden(
        self, hidden: torch.Tensor, targets: torch.Tensor, teacher: dict[str, torch.Tensor], num_items: Any
    ) -> Any:
        """The loss and its terms from final hidden states ``[N, H]`` and labels ``[N]``, inside the head's call."""
        return self._hidden_loss(
            hidden, self._head.weight, teacher.get("hidden"), teacher.get("head"), targets, num_items=num_items,
            student_bias=self._head.bias, teacher_bias=teacher.get("bias"), **self.loss_options(),
        )  # fmt: skip

    def loss_of_logits(
        self, logits: torch.Tensor, targets: torch.Tensor, teacher: dict[str, torch.Tensor], num_items: Any
    ) -> Any:
        """:meth:`loss_of_hidden` from logits ``[N, V]``, for heads that cannot be used directly."""
        return self._logits_loss(logits, teacher.get("logits"), targets, num_items=num_items, **self.loss_options())

    def on_logits(
        self, supervised_idx: torch.Tensor, targets: torch.Tensor, logits_of: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Hook for every batch: positions ``[K]``, labels ``[B, K]``, and the logits of any of the ``B * K`` rows."""

    @contextlib.contextmanager
    def teacher_outputs(
        self, inputs: dict[str, Any], supervised_idx: torch.Tensor, targets: torch.Tensor
    ) -> Iterator[dict[str, torch.Tensor]]:
        """The teacher's outputs, valid inside the ``with``; none in plain fine-tuning."""
        yield {}

    def loss_options(self) -> dict[str, Any]:
        """Further keyword arguments of the loss; plain cross-entropy here."""
        return {"alpha": 0.0, "temperature": 1.0}

    def logged_terms(self, result: Any, num_items: Any) -> dict[str, torch.Tensor]:
        """Terms of the loss to log beside it, each summing over window and ranks to the step's value."""
        return {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the terms of the loss, averaged over the steps since the last log and summed over ranks."""
        if "loss" in logs and self._loss_terms:
            steps = max(1, self.state.global_step - self._loss_terms_since_step)
            names = sorted(self._loss_terms)
            sums = torch.stack([self._loss_terms[name] for name in names]).to(self.args.device)
            sums = self.accelerator.reduce(sums, reduction="sum")
            logs.update({name: value / steps for name, value in zip(names, sums.tolist(), strict=True)})
            self._loss_terms.clear()
        super().log(logs, start_time)

    def after_epoch(self) -> None:
        """Hook after each epoch's evaluation and checkpoint.

        It is the same in all supported versions; stock's method for one epoch exists from transformers 5.3 on.
        """

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self._epoch_end.reached:  # stock's last call of an epoch follows its callbacks
            self._epoch_end.reached = False
            self.after_epoch()

    def _save_rng_state(self, output_dir: str) -> None:
        """Stock's, then a barrier: once rank 0's ``trainer_state.json`` exists, every rank's state is complete."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        with accepts_saved_names(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        with accepts_saved_names(self.model):
            super()._load_best_model()


class _EpochEnd(TrainerCallback):
    reached = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.reached = True


def of_supervised_rows(metric: Callable[..., Any]) -> Callable[..., Any]:
    """Stock's token accuracy without the rows that have no supervised token, whose mean is NaN."""

    def compute(evaluated: Any, **kwargs: Any) -> Any:
        keep = (evaluated.label_ids[:, 1:] != IGNORE_INDEX).any(1)
        return metric(EvalPrediction(evaluated.predictions[keep], evaluated.label_ids[keep]), **kwargs)

    return compute


@torch.no_grad()
def _first_choices(
    labels: torch.Tensor, supervised_idx: torch.Tensor, logits_of: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The most likely next tokens, shaped as ``labels`` ``[B, L]``, from the logits of ``B * K`` rows in chunks."""
    rows = torch.arange(len(labels) * len(supervised_idx), device=labels.device)
    choices = torch.cat([logits_of(some).argmax(-1) for some in rows.split(256)])
    predictions = torch.full_like(labels, IGNORE_INDEX)
    predictions[:, supervised_idx] = choices.view(len(labels), -1)
    return predictions


@contextlib.contextmanager
def accepts_saved_names(model: torch.nn.Module) -> Iterator[None]:
    """Inside, ``model.load_state_dict`` accepts a file's names too; at the end, what was loaded must be complete.

    transformers 5.0-5.6 saves Qwen2-VL's weights under their old names (``visual.blocks...``), which
    ``from_pretrained`` maps back. ``Trainer`` resumes, and loads its best model, by ``load_state_dict(strict=False)``
    without the mapping: no weight is loaded, and training continues from the base weights with a warning.

    Raises:
        ValueError: If weights were loaded (not with adapters, DeepSpeed, FSDP) and some are missing.
    """
    if not isinstance(model, PreTrainedModel):  # PEFT loads adapters only, by itself
        yield
        return

    own, loaded = model.state_dict(), set()
    stock = model.load_state_dict

    def load_state_dict(state_dict: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        if not state_dict.keys() <= own.keys():  # renamed as `from_pretrained` does for this class
            renamings = [each for each in get_model_conversion_mapping(model) if isinstance(each, WeightRenaming)]
            state_dict = {rename_source_key(key, renamings, [])[0]: tensor for key, tensor in state_dict.items()}
        loaded.update(state_dict)
        return stock(state_dict, *args, **kwargs)

    with patch_instance(model, "load_state_dict", load_state_dict):
        yield
    pointers = {own[name].data_ptr() for name in loaded & own.keys()}  # tied weights are saved once
    missing = [name for name, tensor in own.items() if name not in loaded and tensor.data_ptr() not in pointers]
    if loaded and missing:
        raise ValueError(
            f"The checkpoint lacks {len(missing)} of the model's {len(own)} weights, among them {missing[:3]}: it is "
            "of another model, or of another version of transformers. Start from it as `model_name_or_path` instead."
        )
