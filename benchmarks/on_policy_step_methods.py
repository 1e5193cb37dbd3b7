# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One run of a method of ``on_policy_step.py``; prints a JSON line. TRL's needs only torch, transformers and TRL."""

import ctypes
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback


MIB_IN_KIB = 1024
BETA = 0.5


def status_mib(key: str) -> float:
    """A figure of ``/proc/self/status``."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / MIB_IN_KIB


class Watch(TrainerCallback):
    """Time of each step and its parts, and the peak of the process above its size before the second step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.spent = {"rollout": 0.0, "teacher": 0.0}
        self.start = self.began = 0.0

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, whose time counts for a part."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent[part] += time.perf_counter() - began

        return wrapped

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes a step; the first one only sets the peak back."""
        now = time.perf_counter()
        if self.began:
            whole = now - self.began
            self.steps.append({"step": whole, **self.spent, "rest": whole - sum(self.spent.values())})
        else:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            self.start = status_mib("VmRSS")
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
                self.start = torch.cuda.memory_allocated() / 2**20
        self.began, self.spent = time.perf_counter(), dict.fromkeys(self.spent, 0.0)

    def result(self, version: str) -> dict[str, Any]:
        """What the run cost."""
        peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else status_mib("VmHWM")
        return {"steps": self.steps, "peak_mib": round(peak - self.start), "version": version}


def ours(case: dict[str, Any], watch: Watch) -> str:
    """LLaMA-Factory with this package."""
    import importlib.metadata

    from llamafactory.train.tuner import run_exp

    from llamafactory_clinkd.kd import on_policy_trainer, teacher

    on_policy_trainer.sample = watch.timed("rollout", on_policy_trainer.sample)
    teacher.Teacher.hidden = watch.timed("teacher", teacher.Teacher.hidden)
    folder = Path(case["folder"])
    with tempfile.TemporaryDirectory() as output:
        keys = {
            "model_name_or_path": str(folder / "student"), "ref_model": str(folder / "teacher"), "stage": "sft",
            "do_train": True, "finetuning_type": "full", "freeze_vision_tower": True, "use_clinkd": True,
            "clinkd_phases": "distill", "rope_variant": "mrope", "image_square": False, "kd_on_policy": 1.0,
            "kd_divergence": "jsd", "kd_beta": BETA, "kd_temperature": 1.0, "kd_epochs": 1,
            "max_new_tokens": case["new_tokens"], "dataset_dir": str(folder / "data"), "dataset": "train",
            "template": "qwen2_vl", "cutoff_len": 4096, "output_dir": output, "overwrite_cache": True,
            "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": case["rows"],
            "gradient_accumulation_steps": 1, "learning_rate": 1e-6, "report_to": "none", "disable_tqdm": True,
            "disable_gradient_checkpointing": True, "preprocessing_num_workers": 1,
        }  # fmt: skip
        run_exp(keys, [watch])
    return importlib.metadata.version("llamafactory-clinkd")


def trl(case: dict[str, Any], watch: Watch) -> str:
    """TRL's DistillationTrainer."""
    import trl
    from datasets import Dataset, Image, Sequence
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration
    from trl import DistillationConfig, DistillationTrainer

    folder = Path(case["folder"])
    rows = json.loads((folder / "data" / "train.json").read_text())
    prompts = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        for question in (row["messages"][0]["content"].replace("<image>", "") for row in rows)
    ]
    images = [[str(folder / "data" / name) for name in row["images"]] for row in rows]
    data = Dataset.from_dict({"prompt": prompts, "images": images}).cast_column("images", Sequence(Image()))
    student, teacher = (
        Qwen2VLForConditionalGeneration.from_pretrained(folder / name, dtype=torch.float32)
        for name in ("student", "teacher")
    )
    for name, parameter in student.named_parameters():
        if "visual" in name and "merger" not in name:
            parameter.requires_grad_(False)
    student.generate = watch.timed("rollout", student.generate)
    with tempfile.TemporaryDirectory() as output:
        config = DistillationConfig(
            output_dir=output, per_device_train_batch_size=case["rows"], gradient_accumulation_steps=1, beta=BETA,
            temperature=1.0, max_completion_length=case["new_tokens"], gradient_checkpointing=False, bf16=False,
            use_cpu=not torch.cuda.is_available(),
            num_train_epochs=1, logging_steps=1, report_to=[], save_strategy="no", learning_rate=1e-6,
            disable_tqdm=True,
        )  # fmt: skip
        trainer = DistillationTrainer(
            model=student, teacher_model=teacher, args=config, train_dataset=data, callbacks=[watch],
            processing_class=AutoProcessor.from_pretrained(folder / "student", padding_side="left"),
        )  # fmt: skip
        trainer.teacher_model.model.forward = watch.timed("teacher", trainer.teacher_model.model.forward)
        trainer.train()
    return trl.__version__


def main() -> None:
    case = json.loads(sys.argv[1])
    torch.set_num_threads(case["threads"])
    watch = Watch()
    version = {"ours": ours, "TRL": trl}[case["method"]](case, watch)
    print(json.dumps(watch.result(version)), flush=True)


if __name__ == "__main__":
    main()
