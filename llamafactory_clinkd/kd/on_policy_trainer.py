# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""On-policy distillation: on a share of the batches the teacher judges answers that the student samples itself.

This is GKD (Agarwal et al., ICLR 2024) with ``kd_on_policy`` as its lambda. A round of rollouts serves
``kd_rollout_every`` optimizer steps; the answers that a checkpoint has not used yet are saved in it, so that a run
that was interrupted inside a round continues with the same answers.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..generation.decode import base_model, generation_settings, preserve_training_state
from ..generation.generation_trainer import shards_parameters
from ..training.lm_head import IGNORE_INDEX
from ..training.sft_trainer import REPEATED
from ..utils.io import content_hash, read_json, write_json
from ..utils.models import text_config
from .cache_keys import keyed_rows
from .kd_trainer import SCORES, DistillTrainer
from .privileged_prompt import PrivilegedPrompt, answer_starts, opening_and_closing
from .rollouts import ANSWER_FILES, Batch, Rollouts, answers_of, is_on_policy, prompts_of, sample, with_rollouts
from .tower_features import TowerFeatures


logger = logging.getLogger(__name__)

ON_POLICY = "clinkd_on_policy"
REFERENCES = "clinkd_references"
FEATURES = "clinkd_features"
FIGURES = ("rows", "tokens", "ended", "cut", "truncated", "empty", "seconds")
Answers = list[list[list[int]] | None]
"""Of one window: for each micro-batch the sampled token ids by row, or None for its ground truth."""


class OnPolicyDistillTrainer(DistillTrainer):
    """Distils on sampled answers in a share of the micro-batches.

    Args:
        max_new_tokens: Limit of a sampled answer.
        cutoff_len: The recipe's, the limit of a prompt and its sampled answer together.
        **kwargs: Arguments of :class:`DistillTrainer`; ``settings`` has ``kd_on_policy`` and ``kd_rollout_*``.
    """

    def __init__(self, *, max_new_tokens: int, cutoff_len: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        settings, template = self._settings, self.data_collator.template
        opening, _ = opening_and_closing(template, self.processing_class)
        self._lengths, self._truncation_logged = {"opening": opening, "cutoff_len": cutoff_len}, False
        sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if settings.kd_rollout_temperature > 0:
            temperature, top_p = settings.kd_rollout_temperature, settings.kd_rollout_top_p
            sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        sampling |= {"max_new_tokens": max_new_tokens, "num_beams": 1, "repetition_penalty": 1.0}
        models = {"student": self.model} | ({} if self._teacher is None else {"teacher": self._teacher})
        for name, model in models.items():
            positions = getattr(text_config(model.config), "max_position_embeddings", None)
            if positions is not None and cutoff_len > positions:
                logger.warning(
                    "`cutoff_len: %d` allows sampled answers in rows of more tokens than the %s's "
                    "`max_position_embeddings` of %d. Set `cutoff_len: %d` to end them there.",
                    cutoff_len, name, positions, positions,
                )  # fmt: skip
        ours, theirs = (text_config(models.get(each, self.model).config).vocab_size for each in ("student", "teacher"))
        if theirs < ours:  # ids without an embedding in the teacher; the loss compares the shared ids, too
            sampling["suppress_tokens"] = list(range(theirs, ours))
        # A base model's own end is another than that which the template writes, and the student learns, after answers.
        own = base_model(self.model).generation_config.eos_token_id
        own = [] if own is None else [own] if isinstance(own, int) else own
        sampling["eos_token_id"] = sorted({*own, *template.get_stop_token_ids(self.processing_class)})
        self._generation = generation_settings(self.model, self.processing_class, sampling, 1)
        self._windows: deque[list[Batch]] = deque()
        self._answers: deque[Answers] = deque()
        self._prompts: deque[str] = deque()  # a hash for each of these windows
        self._saved: dict[str, Any] | None = None
        self._prompt: PrivilegedPrompt | None = None
        if settings.kd_teacher_prompt:
            pad_token_id = self._generation["pad_token_id"]
            self._prompt = PrivilegedPrompt(settings.kd_teacher_prompt, template, self.processing_class, pad_token_id)
        self._references: list[list[int]] = []
        self._features = None
        if not shards_parameters(self):  # an engine that partitions weights expects the same layers in every pass
            teacher = None if self._teacher is None else self._teacher.model
            self._features = TowerFeatures.of(self.accelerator.unwrap_model(self.model), teacher)
        if self._features is not None:
            readers = "rollouts, student and teacher" if self._features.serves_teacher else "rollouts and student"
            logger.info("The vision tower is frozen: it runs once for %s.", readers)
        self._figures = torch.zeros(len(FIGURES), dtype=torch.float64)

    def after_epoch(self) -> None:
        """That of distillation; a round of rollouts ends with its epoch."""
        super().after_epoch()
        self._windows.clear()
        self._answers.clear()
        self._prompts.clear()
        if self._features is not None:
            self._features.clear()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """The next accumulation window, of a round whose answers are sampled together, and its supervised tokens."""
        if not self._windows:
            self._sample_round(epoch_iterator, num_batches)
        window = self._windows.popleft() if self._windows else []
        if self._answers:
            self._answers.popleft()
            self._prompts.popleft()
        return window, self._get_num_items_in_batch(window, device)

    def _sample_round(self, epoch_iterator: Iterator[Batch], num_batches: int) -> None:
        """Fetches the windows of a round and replaces the answers of their on-policy batches."""
        step, saved = self.state.global_step, self._saved_answers()
        for _ in range(self._settings.kd_rollout_every if saved is None else len(saved["answers"])):
            window = self._fetch_window(epoch_iterator, num_batches)
            if window:
                self._windows.append(window)
        places = [
            (number, index)
            for number, window in enumerate(self._windows)
            for index in range(len(window))
            if is_on_policy(self._settings.kd_on_policy, self.args.seed, step + number, index)
        ]
        answers: list[Answers] = [[None] * len(window) for window in self._windows]
        prompts = [content_hash([prompts_of(batch) for batch in window]) for window in self._windows]
        features: list[int | None] = [None] * len(places)
        if saved is not None:
            answers = saved["answers"]
            sampled = [(n, i) for n, window in enumerate(answers) for i, batch in enumerate(window) if batch]
            if sampled != places or saved.get("prompts", prompts) != prompts:
                raise ValueError(
                    f"The checkpoint's rollouts at step {step} do not fit the recipe's batches. Continue with the "
                    "recipe and the number of processes that it was started with, or set `overwrite_output_dir: true`."
                )
        elif places:
            rollouts, features = self._sample([self._windows[number][index] for number, index in places], step)
            rows = iter(rollouts.answers)
            for number, index in places:
                answers[number][index] = [next(rows) for _ in self._windows[number][index]["input_ids"]]
        pad_token_id = self._generation["pad_token_id"]
        for (number, index), feature in zip(places, features, strict=True):
            batch = self._windows[number][index]
            marks = {ON_POLICY: True, FEATURES: feature}
            if self._prompt is not None:
                marks[REFERENCES] = answers_of(batch)
            batch = with_rollouts(batch, answers[number][index], self.model, pad_token_id)
            self._windows[number][index] = batch | marks
        if self._served is not None and places:
            self._score([self._windows[number][index] for number, index in places])
        self._answers.extend(answers)
        self._prompts.extend(prompts)

    def _score(self, batches: list[Batch]) -> None:
        """Adds a served teacher's scores of a round's answers to its batches."""
        scores = iter(self._served.score([row for batch in batches for row in keyed_rows(batch)]))
        for batch in batches:
            batch[SCORES] = [next(scores) for _ in batch["input_ids"]]

    def _fetch_window(self, epoch_iterator: Iterator[Batch], num_batches: int) -> list[Batch]:
        window: list[Batch] = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            window.append(batch)
            super()._mark_repeated(window)  # while accelerate's state is that of this batch
        return window

    def _mark_repeated(self, batch_samples: list[Batch]) -> None:
        """Nothing: rows are marked when their window is fetched, which is rounds earlier."""

    def _sample(self, batches: list[Batch], step: int) -> tuple[Rollouts, list[int | None]]:
        began, synced = time.perf_counter(), shards_parameters(self)
        model = self.model_wrapped if synced else self.model
        seed = int(content_hash([self.args.seed, step, self.args.process_index])[:15], 16)
        recording = contextlib.nullcontext([None] * len(batches))
        if self._features is not None:
            recording = self._features.record(batches)
        with preserve_training_state(model), recording as features:
            options = {"settings": self._generation, "seed": seed, **self._lengths}
            rollouts = sample(model, batches, synced_gpus=synced, **options)
        rows = sum(len(batch["labels"]) - batch.get(REPEATED, 0) for batch in batches)
        tokens, empty = sum(map(len, rollouts.answers)), rows - sum(map(bool, rollouts.answers))
        seconds = time.perf_counter() - began
        figures = [rows, tokens, rollouts.ended, rollouts.cut, rollouts.truncated, empty, seconds]
        self._figures += torch.tensor(figures, dtype=torch.float64)
        if empty == rows > 0:
            logger.warning("All %d rollouts of step %d are empty: the step learns nothing from them.", empty, step)
        if rollouts.truncated and not self._truncation_logged:
            self._truncation_logged = True
            logger.warning(
                "`cutoff_len: %d` ends %d of %d sampled answers of step %d before `max_new_tokens: %d`. The log "
                "counts them as `rollout_truncated`. Raise `cutoff_len`, or lower `max_new_tokens`.",
                self._lengths["cutoff_len"], rollouts.truncated, rows, step,
                self._generation["max_new_tokens"],
            )  # fmt: skip
        return rollouts, features

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Takes the mark of a sampled batch, which the models do not accept, out of it."""
        self._is_on_policy = inputs.pop(ON_POLICY, False)
        self._references = inputs.pop(REFERENCES, [])
        feature = inputs.pop(FEATURES, None)
        with contextlib.nullcontext() if feature is None else self._features.replay(feature):
            return super().compute_loss(model, inputs, *args, **kwargs)

    @contextlib.contextmanager
    def teacher_outputs(
        self, inputs: dict[str, Any], supervised_idx: torch.Tensor, targets: torch.Tensor
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Those of distillation; on a sampled batch the teacher may read a privileged prompt."""
        if self._prompt is not None and self._is_on_policy:
            starts = answer_starts(supervised_idx, targets, IGNORE_INDEX)
            model = base_model(self._teacher.model)
            inputs, shift = self._prompt.teacher_batch(inputs, starts, self._references, model)
            supervised_idx = supervised_idx + shift
        with super().teacher_outputs(inputs, supervised_idx, targets) as outputs:
            yield outputs

    def loss_options(self) -> dict[str, Any]:
        """Those of distillation; a sampled batch is on-policy as a whole."""
        return super().loss_options() | {"on_policy": True if self._is_on_policy else None}

    def logged_terms(self, result: Any, num_items: Any) -> dict[str, torch.Tensor]:
        """The divergence of both kinds of batches apart, and the share of on-policy tokens."""
        terms = super().logged_terms(result, num_items)
        terms["kl_off_policy"] = terms.pop("kl")
        terms["kl_on_policy"] = result.kl_on_policy
        terms["on_policy_share"] = result.items / num_items * self._is_on_policy
        return terms

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds, since the last log and over all ranks, the length, share of ended ones and seconds of the rollouts."""
        if "loss" in logs:
            figures = self.accelerator.reduce(self._figures.to(self.args.device, torch.float32), reduction="sum")
            rows, tokens, ended, cut, truncated, empty, seconds = figures.tolist()
            self._figures.zero_()
            if rows:
                logs |= {
                    "rollout_length": tokens / rows,
                    "rollout_ended": ended / rows,
                    "rollout_cut": cut / rows,
                    "rollout_truncated": truncated / rows,
                    "rollout_empty": empty / rows,
                    "rollout_seconds": seconds / self.args.world_size,
                }
        super().log(logs, start_time)

    def _save_rng_state(self, output_dir: str) -> None:
        """Writes the answers of this rank's round that are not used yet."""
        if self._answers:
            state = {"step": self.state.global_step, "answers": list(self._answers), "prompts": list(self._prompts)}
            write_json(self._answers_path(output_dir), state)
        super()._save_rng_state(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        path = None if checkpoint is None else self._answers_path(checkpoint)
        self._saved = read_json(path) if path is not None and path.is_file() else None

    def _saved_answers(self) -> dict[str, Any] | None:
        """The answers of the checkpoint that the run continues from and hashes of their prompts, once."""
        saved, self._saved = self._saved, None
        return None if saved is None or saved["step"] != self.state.global_step else saved

    def _answers_path(self, folder: str) -> Path:
        return Path(folder) / ANSWER_FILES.replace("*", str(self.args.process_index))
