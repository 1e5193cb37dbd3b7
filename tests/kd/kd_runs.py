# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Distillation runs in this process, through stock's own entry point."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from small_run import recipe
from transformers import AutoModelForImageTextToText, TrainerCallback

from llamafactory_clinkd.phases.validation import check_recipe


PARTS = ("loss", "ce", "kl", "teacher_agreement", "teacher_entropy")
quantised = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed: pip install 'llamafactory-clinkd[quant]'",
)


def distil(workspace: Path, output_dir: Path, callbacks: list[Any] | None = None, **changes: Any) -> Path:
    """Runs phase ``distill`` of a recipe; returns ``output_dir``."""
    from llamafactory.train.tuner import run_exp

    keys = {"kd_epochs": 2, "gradient_accumulation_steps": 2, "eval_dataset": None, "per_device_train_batch_size": 1}
    run_exp(recipe(workspace, output_dir, **(keys | changes)), callbacks)
    return output_dir


def history(folder: Path, parts: tuple[str, ...] = PARTS) -> list[dict[str, float]]:
    """What every step logged: the loss and its parts."""
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    return [{key: entry[key] for key in parts if key in entry} for entry in state["log_history"] if "loss" in entry]


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    """The weights that a run left in its folder."""
    return load_file(folder / name)


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def jsd(p: torch.Tensor, q: torch.Tensor, beta: float) -> torch.Tensor:
    """The generalised Jensen-Shannon divergence of rows ``[R, V]``, by its definition."""
    m = beta * p + (1 - beta) * q
    return beta * (p * (p.log() - m.log())).sum(-1) + (1 - beta) * (q * (q.log() - m.log())).sum(-1)


@torch.no_grad()
def direct_losses(rounds: list[Any], student: Any, teacher: Any, window: int = 2) -> list[float]:
    """The losses of windows of one-row batches, at temperature 2 and beta 0.3, from prompts and answers of a run."""
    losses = []
    for batches, result in rounds:
        for first in range(0, len(batches), window):
            total = count = 0
            some = slice(first, first + window)
            for batch, answer in zip(batches[some], result.answers[some], strict=True):
                start = int((batch["labels"][0] != -100).nonzero()[0])
                ids = torch.cat([batch["input_ids"][0, :start], torch.tensor(answer)])[None]
                inputs = {
                    "input_ids": ids,
                    "mm_token_type_ids": (ids == student.config.image_token_id).long(),
                    "image_grid_thw": batch["image_grid_thw"],
                }
                rows = slice(start - 1, start + len(answer) - 1)
                p, q = (
                    torch.softmax(m(**inputs, pixel_values=batch["pixel_values"].to(m.dtype)).logits[0, rows] / 2, -1)
                    for m in (teacher, student)
                )
                total, count = total + 4.0 * float(jsd(p.double(), q.double(), 0.3).sum()), count + len(answer)
            losses.append(total / count)
    return losses


TEXT = r".*language_model.*(q_proj|v_proj)"


def teacher_adapter(workspace: Path, folder: Path, targets: str | list[str] = TEXT) -> dict[str, Any]:
    """Saves a LoRA adapter that changes the base's outputs; returns the keys of a LoRA student under it."""
    model = AutoModelForImageTextToText.from_pretrained(workspace / "student")
    torch.manual_seed(3)
    get_peft_model(model, LoraConfig(r=3, target_modules=targets, init_lora_weights=False)).save_pretrained(folder)
    student = {"finetuning_type": "lora", "lora_rank": 2, "lora_target": "q_proj,v_proj", "ref_model": None}
    return {**student, "ref_model_adapters": str(folder), "rope_variant": "mrope"}


def check_under_engine(engine: dict[str, Any], **keys: Any) -> None:
    """Checks a recipe of phase ``distill`` with these training arguments and ClinKD keys."""
    data = SimpleNamespace(dataset=["any"], eval_dataset=None, val_size=0.0)
    training = {
        "max_steps": -1,
        "label_smoothing_factor": 0.0,
        "resume_from_checkpoint": None,
        "deepspeed": None,
        "fsdp": [],
        "fp16": False,
        "device": torch.device("cuda"),
    }
    off = {"clinkd_phases": ["distill"], "kd_method": "pseudo_kd", "kd_teacher_offload": False, "kd_cache": "off"}
    finetuning = SimpleNamespace(**off | keys)
    check_recipe(
        SimpleNamespace(finetuning=finetuning, data=data, training=SimpleNamespace(**training | engine), model=None)
    )


class StopAt(TrainerCallback):
    """Ends a run as a kill would: at the beginning of a step, without saving."""

    class Stopped(Exception):
        pass

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self._step:
            raise self.Stopped
