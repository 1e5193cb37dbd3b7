# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What decides memory, disk and counts of a recipe; read from its keys, without LLaMA-Factory or a GPU."""

import csv
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from ..arguments import ClinkdArguments
from ..data.reader import read_rows
from ..utils.io import read_json
from ..utils.value_checks import split_list
from .model_shape import ModelShape, load_shape, pixel_limits


MED_GRIT_ROWS = (240_000, 30_000)  # training and test rows (section 4.1 of the paper), for data that is not local
QUESTION_TOKENS = 64  # mean tokens of question, system prompt and template: an assumption
PSEUDO_LABEL_BEAMS = 3  # of phases.pseudo_label, whose import would load LLaMA-Factory


@dataclass(frozen=True)
class RecipeSpec:
    """The figures of a recipe. Every field with a default is a key of LLaMA-Factory with LLaMA-Factory's default."""

    student: ModelShape
    teacher: ModelShape | None
    keys: Mapping[str, Any]  # ClinKD's, defaults included
    gpus: int
    on_cpu: bool
    zero_stage: int  # 0 without DeepSpeed
    offload_optimizer: bool
    offload_weights: bool
    teacher_shares_weights: bool  # teacher and student are adapters on one base
    row_tokens: int
    image_tokens: int
    answer_tokens: int
    train_rows: int
    eval_rows: int
    rows_are_assumed: bool  # a number of rows is the paper's
    bf16: bool = False
    fp16: bool = False
    pure_bf16: bool = False
    finetuning_type: str = "lora"
    lora_rank: int = 8
    freeze_trainable_layers: int = 2
    freeze_vision_tower: bool = True
    freeze_multi_modal_projector: bool = True
    use_badam: bool = False
    use_galore: bool = False
    galore_rank: int = 16
    optim: str = "adamw_torch"
    quantization_bit: int | None = None
    ref_model_quantization_bit: int | None = None
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    disable_gradient_checkpointing: bool = False
    max_new_tokens: int = 1024
    num_beams: int = 1

    @property
    def mean_tokens(self) -> int:
        """Tokens of a row on average, for the time; memory is planned for ``row_tokens``."""
        return min(self.row_tokens, self.image_tokens + QUESTION_TOKENS + self.answer_tokens)

    def is_served(self, phase: str) -> bool:
        """Whether a server generates the phase's answers, on GPUs that the plan does not count."""
        return bool(self.keys["generation_base_url"]) and phase in self.keys["generation_phases"]

    @property
    def distils(self) -> bool:
        """Whether phase distill has a teacher on the run's GPUs."""
        distils = "distill" in self.keys["clinkd_phases"] and self.keys["kd_method"] != "none"
        return distils and bool(self.teacher) and not self.keys["kd_teacher_base_url"]

    @property
    def trains_head(self) -> bool:
        """Whether the embedding and the head are trained."""
        return self.finetuning_type == "full" and not self.use_badam

    @property
    def half(self) -> bool:
        """Whether the run computes in bf16 or fp16."""
        return self.bf16 or self.fp16 or self.pure_bf16

    @property
    def dtype_bytes(self) -> int:
        """Bytes of a number in forward and backward, and of a frozen weight."""
        return 2 if self.half else 4

    @property
    def casts_weights(self) -> bool:
        """Whether the trained weights are fp32 and autocast makes half-precision copies of them."""
        return self.half and not (self.zero_stage or self.pure_bf16 or self.use_badam)

    @property
    def trained_dtype_bytes(self) -> int:
        """Bytes of a trained weight and of its gradient."""
        return 2 if self.half and not self.casts_weights else 4


def read_spec(
    keys: Mapping[str, Any],
    *,
    gpus: int,
    on_cpu: bool = False,
    rows: tuple[int | None, int | None] = (None, None),
    row_tokens: int | None = None,
    answer_tokens: int = 64,
) -> RecipeSpec:
    """Reads the keys of a YAML recipe, for a run with one process per GPU, or one ``on_cpu`` as in tests.

    ``rows`` are training and evaluation rows; None counts the recipe's data files, or takes the paper's numbers.
    ``row_tokens`` is the length of the longest row, image included, by default ``cutoff_len``, where LLaMA-Factory
    truncates; ``answer_tokens`` is the mean length of an answer.

    Raises:
        ValueError: If the recipe does not use ClinKD, has a ClinKD key that a run would refuse, or names a model or a
            DeepSpeed file that cannot be read here.
    """
    if not keys.get("use_clinkd"):
        raise ValueError("`use_clinkd` is not set: the plan is for ClinKD's phases. Set `use_clinkd: true`.")
    if not keys.get("model_name_or_path"):
        raise ValueError("`model_name_or_path` is missing: name the student.")
    clinkd = checked_keys(keys)
    base, adapters = keys["model_name_or_path"], keys.get("ref_model_adapters")
    teacher = keys.get("ref_model") or (base if adapters else None)
    student, (fewest, most) = load_shape(base), pixel_limits(base)
    pixels = max(fewest, min(int(keys.get("image_max_pixels", 768 * 768)), most))
    row_tokens = row_tokens or int(keys.get("cutoff_len", 2048))
    row_counts = [n or count_rows(keys, key) for n, key in zip(rows, ("dataset", "eval_dataset"), strict=True)]
    train_rows, eval_rows = (n or paper for n, paper in zip(row_counts, MED_GRIT_ROWS, strict=True))
    stock = {item.name: item.default for item in fields(RecipeSpec) if item.default is not MISSING}
    return RecipeSpec(
        student=student,
        teacher=load_shape(teacher) if teacher else None,
        keys=clinkd,
        gpus=gpus,
        on_cpu=on_cpu,
        teacher_shares_weights=bool(adapters) and keys.get("finetuning_type", "lora") == "lora" and teacher == base,
        row_tokens=row_tokens,
        image_tokens=min(student.image_tokens(pixels), row_tokens),
        answer_tokens=answer_tokens,
        train_rows=train_rows,
        eval_rows=eval_rows,
        rows_are_assumed=None in row_counts,
        **_sharding(keys),
        **{
            name: keys[name] if default is None else type(default)(keys[name])
            for name, default in stock.items()
            if keys.get(name) is not None
        },
    )


def checked_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's ClinKD keys, checked as a run checks them."""
    clinkd_keys = {item.name: keys[item.name] for item in fields(ClinkdArguments) if item.name in keys}
    arguments = ClinkdArguments(**clinkd_keys)
    for name in ("ref_model", "ref_model_adapters", "ref_model_quantization_bit", "use_badam"):
        setattr(arguments, name, keys.get(name))
    arguments.check_clinkd()
    return arguments.clinkd_dict()


FSDP_STAGES = {"full_shard": 3, "hybrid_shard": 3, "shard_grad_op": 2, "hybrid_shard_zero2": 2, "no_shard": 0}
"""FSDP's strategies -> the stage of ZeRO that shards the same things; the sums of bytes are equal."""


def _sharding(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The stage of ZeRO, and whether optimiser and weights are offloaded; from ``deepspeed`` or ``fsdp``."""
    if fsdp := keys.get("fsdp"):
        words = {"full_shard"} if fsdp is True else set(fsdp if isinstance(fsdp, list) else str(fsdp).split())
        if unknown := words - {*FSDP_STAGES, "offload", "auto_wrap"}:
            allowed = ", ".join([*FSDP_STAGES, "offload", "auto_wrap"])
            raise ValueError(f"`fsdp: {fsdp}` has {', '.join(sorted(unknown))}: expected some of {allowed}.")
        stage = max((stage for word, stage in FSDP_STAGES.items() if word in words), default=0)
        return {"zero_stage": stage, "offload_optimizer": "offload" in words, "offload_weights": "offload" in words}
    config = keys.get("deepspeed")
    if config and not isinstance(config, Mapping):
        if not Path(config).is_file():
            raise ValueError(f"`deepspeed: {config}` is not a file. Run in the folder that its path is relative to.")
        config = read_json(config)
    zero = (config or {}).get("zero_optimization", {})
    return {
        "zero_stage": int(zero.get("stage", 0)),
        "offload_optimizer": zero.get("offload_optimizer", {}).get("device", "none") != "none",
        "offload_weights": zero.get("offload_param", {}).get("device", "none") != "none",
    }


def count_rows(keys: Mapping[str, Any], key: str) -> int | None:
    """Rows of ``dataset`` or ``eval_dataset`` in local files and folders; None if one is missing."""
    info = Path(str(keys.get("dataset_dir", "data")), "dataset_info.json")
    entries = read_json(info) if info.is_file() else {}
    limit = int(keys.get("max_samples") or 10**12)  # of each data set, as in LLaMA-Factory
    count = 0
    for name in split_list(keys.get(key) or []):
        entry = entries.get(name, {})
        path = info.parent / entry.get("file_name", "?")
        if not path.exists():
            return None
        count += min(limit, int(entry.get("num_samples") or 10**12), _rows_in(path))
    return count or None


def _rows_in(path: Path) -> int:
    """Rows of a file, or of all files in a folder, in the formats that LLaMA-Factory loads."""
    if path.is_dir():
        return sum(_rows_in(file) for file in sorted(path.iterdir()) if not file.name.startswith("."))
    kind = path.suffix.lower().lstrip(".")
    if kind == "parquet":
        from pyarrow.parquet import read_metadata

        return read_metadata(path).num_rows
    if kind == "arrow":
        from datasets import Dataset

        return len(Dataset.from_file(str(path)))
    if kind == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            return sum(1 for _ in csv.DictReader(file))
    if kind not in ("json", "jsonl", "txt"):
        raise ValueError(f"{path}: rows of .{kind} files are not counted. Give them with --train-rows or --eval-rows.")
    with path.open(encoding="utf-8") as file:
        if kind != "txt" and file.read(1 << 16).lstrip().startswith("["):
            return sum(1 for _ in read_rows(path))
        file.seek(0)
        first = file.readline().strip()
        if kind == "txt" or (first.startswith("{") and first.endswith("}")):  # JSON Lines, under any name
            return bool(first) + sum(bool(line.strip()) for line in file)
    return 1
