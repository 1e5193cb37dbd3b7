# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The distillation trainer: Eq. 12-16 of the paper on the supervised tokens, both models on the same pixels."""

import contextlib
import gc
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import linear

from ..training.sft_trainer import SupervisedTrainer
from .cache_keys import KeyedCollator, pop_keys
from .teacher import CACHE_UNDER_FSDP, CachedTeacher, Teacher


logger = logging.getLogger(__name__)

SCORES = "clinkd_scores"
"""In a batch of rollouts: a served teacher's scores of each row."""


class DistillTrainer(SupervisedTrainer):
    """Distils a teacher into the student.

    Args:
        teacher: A frozen model, adapters over the student, or either behind a cache; None with ``served``.
        settings: The recipe's ``FinetuningArguments`` with the ``kd_*`` keys.
        pixel_settings: See :func:`.cache_keys.pixel_settings`; None without a cache.
        served: A :class:`.served_teacher.ServedTeacher` whose rows are scored.
        **kwargs: Arguments of :class:`SupervisedTrainer`.
    """

    def __init__(
        self,
        *,
        teacher: Teacher | CachedTeacher | None,
        settings: Any,
        pixel_settings: dict[str, Any] | None,
        served: Any = None,
        **kwargs: Any,
    ) -> None:
        self._settings, self._teacher, self._served = settings, teacher, served
        self._cached = teacher if isinstance(teacher, CachedTeacher) else None
        live = self._cached.teacher if self._cached else teacher
        if pixel_settings is not None:
            kwargs["data_collator"] = KeyedCollator(kwargs["data_collator"], pixel_settings)
        as_ref_model = live is not None and live.prepared_by_trainer
        super().__init__(**kwargs | {"ref_model": live.model if as_ref_model else None})
        if as_ref_model:
            live.model = self.ref_model
        elif live is not None:
            live.prepare(self.accelerator)
        # FSDP gathers a head only inside its own forward pass: both models' logits are used there.
        self._uses_hidden = self._cached is not None or (
            live is not None and live.head is not None and not self.is_fsdp_enabled
        )
        if not self._uses_hidden and served is None:
            self._head = None
        if self._cached and self.is_fsdp_enabled:
            raise ValueError(CACHE_UNDER_FSDP)
        if self._cached:
            self._cached.prepare(self.accelerator)
        self._keys: list[str] = []
        self._scores: list[torch.Tensor] | None = None
        self._top: Any = None
        self._first_batch_done = False
        self._is_on_policy = False  # whether the student sampled the batch's answers
        self._noise = torch.Generator(device=self.args.device).manual_seed(self.args.seed + self.args.process_index)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Takes the samples' keys and scores, which the models do not accept, out of the batch."""
        if self._cached is not None or self._served is not None:
            self._keys = pop_keys(inputs)
        self._scores = inputs.pop(SCORES, None)
        return super().compute_loss(model, inputs, *args, **kwargs)

    @contextlib.contextmanager
    def teacher_outputs(
        self, inputs: dict[str, Any], supervised_idx: torch.Tensor, targets: torch.Tensor
    ) -> Iterator[dict[str, torch.Tensor]]:
        """The teacher's final hidden states (``[B * K, H_t]``) and head, or its logits where a head is not plain.

        Nothing of a served teacher: its likeliest ids are an option of the loss.
        """
        if self._served is not None:
            scores = self._served.cached(self._keys) if self._scores is None else self._scores
            self._top = self._served.top(scores, targets)
            yield {}
            return
        if not self._uses_hidden:
            logits = self._teacher.logits(inputs, supervised_idx).flatten(0, 1)
            with self._teacher.student_pass(inputs):
                yield {"logits": logits}
            return
        if self._cached is None:
            hidden = self._teacher.hidden(inputs, supervised_idx)
        else:
            hidden = self._cached.hidden(self._keys, inputs, supervised_idx, targets)
        with self._teacher.gathered_head() as (weight, bias), self._teacher.student_pass(inputs):
            hidden = hidden.flatten(0, 1)
            if self._head is not None:
                yield {"hidden": hidden, "head": weight, "bias": bias}
            else:
                with torch.no_grad():
                    logits = linear(hidden.to(weight.dtype), weight, bias)
                yield {"logits": logits}

    def loss_options(self) -> dict[str, Any]:
        """Alpha, temperature and noise of Eq. 13-16, and a served teacher's likeliest ids of the batch."""
        names = ("alpha", "temperature", "temperature_squared", "noise_std", "divergence", "beta")
        options = {name: getattr(self._settings, f"kd_{name}") for name in names}
        if self._served is not None:
            options["teacher_top"] = self._top
        return options | {"generator": self._noise if options["noise_std"] > 0 else None}

    def logged_terms(self, result: Any, num_items: Any) -> dict[str, torch.Tensor]:
        """Cross-entropy, KL divergence, how often both models' first choice agrees, and the teacher's entropy."""
        if self.is_first_batch(result):
            per_token, is_sampled = num_items / result.items, self._is_on_policy
            ce, kl = float(result.ce * per_token), float((result.kl + result.kl_on_policy) * per_token)
            entropy, agreement = float(result.teacher_entropy), float(result.agreement)
            logger.info(
                "First batch, %d %s tokens: %sdistillation %.4f, teacher's entropy %.3f nats; first choices agree on "
                "%.0f %%; %.2g of the teacher's mass is on ids that the student lacks.",
                int(result.items), "sampled" if is_sampled else "supervised",
                "" if is_sampled else f"cross-entropy {ce:.3f}, ",
                kl, entropy, agreement * 100, float(result.teacher_dropped_mass),
            )  # fmt: skip
        share = result.items / num_items
        return {
            "ce": result.ce,
            "kl": result.kl,
            "teacher_agreement": result.agreement * share,
            "teacher_entropy": result.teacher_entropy * share,
        }

    def is_first_batch(self, result: Any) -> bool:
        """True once, on the first process, for a line of figures that exposes a wrong teacher early."""
        is_first = not self._first_batch_done and bool(result.items > 0)
        self._first_batch_done |= is_first
        return is_first and self.is_world_process_zero()

    def after_epoch(self) -> None:
        """Every rank reads the others' shards of the cache, and the trunk is dropped."""
        if self._cached is None:
            return
        self._cached.cache.flush()
        self.accelerator.wait_for_everyone()
        self._cached.cache.refresh()
        model = self._cached.drop_trunk()
        if model is not None:
            self.ref_model = None
            self.accelerator._models[:] = [each for each in self.accelerator._models if each is not model]
            del model
            gc.collect()
            if self.args.device.type == "cuda":
                torch.cuda.empty_cache()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._cached is not None:  # a resumed run does not visit this checkpoint's samples again
            self._cached.cache.flush()
        super()._save_checkpoint(model, trial)
