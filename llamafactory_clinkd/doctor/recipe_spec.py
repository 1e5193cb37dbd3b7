# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What of a recipe decides over memory, disk and counts; read from its keys alone, without LLaMA-Factory or a GPU."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..arguments import PHASES, ClinkdArguments
from ..utils.value_checks import split_list
from .model_shape import ModelShape, load_shape


MED_GRIT_ROWS = (240_000, 30_000)
"""Training and test rows of Med-GRIT-270k (section 4.1 of the paper), where a recipe's data is not on this machine."""
_NAMES = [item.name for item in fields(ClinkdArguments)]


@dataclass(frozen=True)
class Facts:
    """A recipe's figures; bytes are bytes, rows and tokens are counts."""

    student: ModelShape
    teacher: ModelShape | None
    phases: tuple[str, ...]
    gpus: int
    on_cpu: bool
    half: bool
    pure_half: bool
    zero_stage: int
    offload_optimizer: bool
    offload_weights: bool
    finetuning: str
    lora_rank: int
    trainable_layers: int
    trains_vision: bool
    trains_projector: bool
    badam: bool
    galore_rank: int | None
    optimizer: str
    student_bits: int | None
    teacher_bits: int | None
    teacher_shares_weights: bool
    batch: int
    eval_batch: int
    accumulation: int
    checkpointing: bool
    row_tokens: int
    image_tokens: int
    new_tokens: int
    answer_tokens: int
    pseudo_label_beams: int
    correct_beams: int
    predict_beams: int
    train_rows: int
    eval_rows: int
    rows_are_assumed: bool
    keys: Mapping[str, Any]

    @property
    def distils(self) -> bool:
        """Whether phase distill has a teacher."""
        return "distill" in self.phases and self.keys["kd_method"] != "none" and self.teacher is not None


def facts_of(
    keys: Mapping[str, Any],
    *,
    gpus: int,
    on_cpu: bool = False,
    rows: tuple[int | None, int | None] = (None, None),
    row_tokens: int | None = None,
    answer_tokens: int = 64,
) -> Facts:
    """Reads a recipe.

    Args:
        keys: Of the YAML file.
        gpus: How many GPUs the run would have; the same number of processes.
        on_cpu: Whether it would run on CPU (tests do).
        rows: Training and evaluation rows; None counts the recipe's data files, else takes the paper's numbers.
        row_tokens: Tokens of the longest row, image included; None is ``cutoff_len``, where stock cuts.
        answer_tokens: Mean tokens of an answer.

    Raises:
        ValueError: If the recipe does not use ClinKD, has a ClinKD key that a run would refuse, or names a model or a
            DeepSpeed file that cannot be read here.
    """
    if not keys.get("use_clinkd"):
        raise ValueError("`use_clinkd` is not set: the plan is for ClinKD's phases. Set `use_clinkd: true`.")
    if not keys.get("model_name_or_path"):
        raise ValueError("`model_name_or_path` is missing: name the student.")
    clinkd = _checked(keys)
    phases = tuple(phase for phase in PHASES if phase in clinkd["clinkd_phases"])
    teacher_name = keys.get("ref_model") or (keys["model_name_or_path"] if keys.get("ref_model_adapters") else None)
    student = load_shape(keys["model_name_or_path"])
    stage, offload_optimizer, offload_weights = _zero(keys.get("deepspeed"))
    beams = int(keys.get("num_beams", 1))
    cutoff = int(keys.get("cutoff_len", 2048))
    new_tokens = int(keys.get("max_new_tokens", 1024))
    counted = _counted_rows(keys)
    chosen = [given or found for given, found in zip(rows, counted, strict=True)]
    half = bool(keys.get("bf16") or keys.get("fp16") or keys.get("pure_bf16"))
    badam = bool(keys.get("use_badam"))
    limit = int(keys.get("max_samples") or 10**12)
    return Facts(
        student=student,
        teacher=load_shape(teacher_name) if teacher_name else None,
        phases=phases,
        gpus=gpus,
        on_cpu=on_cpu,
        half=half,
        pure_half=bool(keys.get("pure_bf16")) or (badam and half),
        zero_stage=stage,
        offload_optimizer=offload_optimizer,
        offload_weights=offload_weights,
        finetuning=str(keys.get("finetuning_type", "lora")),
        lora_rank=int(keys.get("lora_rank", 8)),
        trainable_layers=abs(int(keys.get("freeze_trainable_layers", 2))),
        trains_vision=not keys.get("freeze_vision_tower", True),
        trains_projector=not keys.get("freeze_multi_modal_projector", True),
        badam=badam,
        galore_rank=int(keys.get("galore_rank", 16)) if keys.get("use_galore") else None,
        optimizer=str(keys.get("optim", "adamw_torch")),
        student_bits=keys.get("quantization_bit"),
        teacher_bits=keys.get("ref_model_quantization_bit"),
        teacher_shares_weights=_shares_weights(keys),
        batch=int(keys.get("per_device_train_batch_size", 8)),
        eval_batch=int(keys.get("per_device_eval_batch_size", 8)),
        accumulation=int(keys.get("gradient_accumulation_steps", 1)),
        checkpointing=not keys.get("disable_gradient_checkpointing", False),
        row_tokens=row_tokens or cutoff,
        image_tokens=min(student.image_tokens(int(keys.get("image_max_pixels", 768 * 768))), row_tokens or cutoff),
        new_tokens=new_tokens,
        answer_tokens=answer_tokens,
        pseudo_label_beams=max(3, beams),
        correct_beams=max(1, beams),
        predict_beams=max(beams, clinkd["sasg_candidates"]),
        train_rows=min(limit, chosen[0] or MED_GRIT_ROWS[0]),
        eval_rows=min(limit, chosen[1] or MED_GRIT_ROWS[1]),
        rows_are_assumed=None in chosen,
        keys=clinkd,
    )


def _checked(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's ClinKD keys, checked as a run checks them."""
    arguments = ClinkdArguments(**{name: keys[name] for name in _NAMES if name in keys})
    for name in ("ref_model", "ref_model_adapters", "ref_model_quantization_bit", "use_badam"):
        setattr(arguments, name, keys.get(name))
    arguments.check_clinkd()
    return arguments.clinkd_dict()


def _shares_weights(keys: Mapping[str, Any]) -> bool:
    """Whether the teacher is adapters over the weights that the student's adapter is trained over."""
    same = keys.get("ref_model") in (None, keys["model_name_or_path"])
    return bool(keys.get("ref_model_adapters")) and keys.get("finetuning_type", "lora") == "lora" and same


def _zero(config: str | Mapping[str, Any] | None) -> tuple[int, bool, bool]:
    """Stage, whether the optimiser is offloaded, whether weights are; of a file, or of what it would hold."""
    if not config:
        return 0, False, False
    if not isinstance(config, Mapping):
        file = Path(config)
        if not file.is_file():
            raise ValueError(f"`deepspeed: {config}` is no file here. Start where the recipe's paths start from.")
        config = json.loads(file.read_text(encoding="utf-8"))
    zero = config.get("zero_optimization", {})
    offloads = [zero.get(name, {}).get("device", "none") != "none" for name in ("offload_optimizer", "offload_param")]
    return int(zero.get("stage", 0)), *offloads


def _counted_rows(keys: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Rows of the local data files that the recipe names; None where one is not on this machine."""
    info = Path(str(keys.get("dataset_dir", "data")), "dataset_info.json")
    entries = json.loads(info.read_text(encoding="utf-8")) if info.is_file() else {}
    found = []
    for key in ("dataset", "eval_dataset"):
        names = split_list(keys.get(key) or [])
        files = [info.parent / entries.get(name, {}).get("file_name", "?") for name in names]
        known = bool(names) and all(file.is_file() for file in files)
        found.append(sum(_rows_in(file) for file in files) if known else None)
    return found[0], found[1]


def _rows_in(file: Path) -> int:
    text = file.read_text(encoding="utf-8")
    return sum(bool(line.strip()) for line in text.splitlines()) if file.suffix == ".jsonl" else len(json.loads(text))
