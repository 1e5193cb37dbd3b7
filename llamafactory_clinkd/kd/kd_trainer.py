# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The distillation trainer.

Eq. 12-16 of the paper on the supervised tokens, teacher and student on the same pixels.
"""

import contextlib
import gc
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import linear

from ..training.sft_trainer import SupervisedTrainer
from .cache_keys import KeyedCollator, keys_of
from .cached_teacher import CachedTeacher
from .teacher import Teacher


logger = logging.getLogger(__name__)


class DistillTrainer(SupervisedTrainer):
    """Distils a teacher into the student.

    Args:
        teacher: A frozen model, which stock's trainer prepares for DDP, DeepSpeed or FSDP; adapters over the student;
            or either behind a cache.
        settings: The recipe's ``FinetuningArguments`` with the ``kd_*`` keys.
        pixel_settings: What turns media files into pixels, part of the cache's keys; None without a cache.
        **kwargs: What :class:`SupervisedTrainer` takes.
    """

    def __init__(
        self, *, teacher: Teacher | CachedTeacher, settings: Any, pixel_settings: dict[str, Any] | None, **kwargs: Any
    ) -> None:
        self._settings = settings
        self._cached = teacher if isinstance(teacher, CachedTeacher) else None
        live = teacher.teacher if self._cached else teacher
        if self._cached:
            kwargs["data_collator"] = KeyedCollator(kwargs["data_collator"], pixel_settings)
        for_stock = live is not None and live.stock_places_it
        super().__init__(**kwargs | {"ref_model": live.model if for_stock else None})
        if for_stock:
            live.model = self.ref_model
        elif live is not None:
            live.place(self.accelerator)
        self._teacher = teacher
        partitioned = self.is_fsdp_enabled  # its head is whole inside its own forward pass only
        self._plain = self._cached is not None or (live.head is not None and not partitioned)
        if not self._plain:
            self._head = None  # both sides from logits then
        if self._cached:
            if partitioned:
                raise ValueError(
                    "`kd_cache: hidden` needs the teacher's head whole, which FSDP does not give outside of its own "
                    "forward pass. Set `kd_cache: off`, or use DeepSpeed."
                )
            self._start_cache(live)
        self._keys: list[str] = []
        self._told_first_batch = False
        self._noise = torch.Generator(device=self.args.device).manual_seed(self.args.seed + self.args.process_index)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss; the samples' keys do not reach the models."""
        if self._cached is not None:
            self._keys = keys_of(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    @contextlib.contextmanager
    def teacher_outputs(
        self, inputs: dict[str, Any], kept: torch.Tensor, targets: torch.Tensor
    ) -> Iterator[dict[str, torch.Tensor]]:
        """The teacher's final hidden states (``[B * K, H_t]``) and head, or its logits where a head is not plain."""
        if not self._plain:
            logits = self._teacher.logits(inputs, kept).flatten(0, 1)
            with self._teacher.student_pass(inputs):
                yield {"logits": logits}
            return
        hidden = self._teacher_hidden(inputs, kept, targets).flatten(0, 1)
        with self._teacher.whole_head() as (weight, bias), self._teacher.student_pass(inputs):
            if self._head is not None:
                yield {"hidden": hidden, "head": weight, "bias": bias}
            else:
                with torch.no_grad():
                    logits = linear(hidden.to(weight.dtype), weight, bias)
                yield {"logits": logits}

    def _teacher_hidden(self, inputs: dict[str, Any], kept: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self._cached is None:
            return self._teacher.hidden(inputs, kept)
        return self._cached.hidden(self._keys, inputs, kept, targets, any_rank=self._any_rank)

    def _any_rank(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any rank; ranks decide alone where a trunk does not need them all."""
        if not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            return flag
        total = self.accelerator.reduce(torch.tensor(float(flag), device=self.args.device), reduction="sum")
        return bool(total > 0)

    def loss_options(self) -> dict[str, Any]:
        """Alpha, temperature and noise of Eq. 13-16."""
        settings = self._settings
        return {
            "alpha": settings.kd_alpha,
            "temperature": settings.kd_temperature,
            "temperature_squared": settings.kd_temperature_squared,
            "noise_std": settings.kd_noise_std,
            "generator": self._noise if settings.kd_noise_std > 0 else None,
        }

    def logged_parts(self, result: Any, num_items: Any) -> dict[str, torch.Tensor]:
        """Cross-entropy and KL divergence, how often both models' first choice agrees, how sure the teacher is."""
        if self.first_batch(result) and self.is_world_process_zero():
            self._tell_first_batch(result, num_items)
        share = result.items / num_items
        return {
            "ce": result.ce,
            "kl": result.kl,
            "teacher_agreement": result.agreement * share,
            "teacher_entropy": result.teacher_entropy * share,
        }

    def first_batch(self, result: Any) -> bool:
        """Whether this is the run's first batch with a supervised token; true once."""
        is_first = not self._told_first_batch and bool(result.items > 0)
        self._told_first_batch |= is_first
        return is_first

    def _tell_first_batch(self, result: Any, num_items: Any) -> None:
        """One line by which a wrong teacher shows before hours have passed."""
        per_token = num_items / result.items
        logger.info(
            "First batch, %d supervised tokens: cross-entropy %.3f, distillation %.4f, teacher's entropy %.3f nats; "
            "first choices agree on %.0f %%; %.2g of the teacher's mass is on ids that the student lacks.",
            int(result.items),
            float(result.ce * per_token),
            float(result.kl * per_token),
            float(result.teacher_entropy),
            float(result.agreement) * 100,
            float(result.teacher_dropped_mass),
        )

    def _start_cache(self, live: Teacher | None) -> None:
        if live is None:
            self._cached.head_from_cache(self.args.device)
        else:
            self._cached.keep_head()
        self._cached.prepare = lambda teacher: teacher.place(self.accelerator)

    def _run_epoch(self, **kwargs: Any) -> None:
        """One epoch; the cache then shows every rank what the others computed, and the trunk is let go."""
        super()._run_epoch(**kwargs)
        if self._cached is None:
            return
        self._cached.cache.flush()
        self.accelerator.wait_for_everyone()
        self._cached.cache.refresh()
        model = self._cached.release()
        if model is not None:
            self.ref_model = None
            self.accelerator._models[:] = [each for each in self.accelerator._models if each is not model]
            del model
            gc.collect()
            if self.args.device.type == "cuda":
                torch.cuda.empty_cache()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint; what a resumed run will not compute again is on disk first."""
        if self._cached is not None:
            self._cached.cache.flush()
        super()._save_checkpoint(model, trial)
