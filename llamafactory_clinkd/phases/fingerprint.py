# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What each phase ran with: the recipe's values, its data and models, and the phase before it.

Every field of every argument group counts, also one that a newer LLaMA-Factory or transformers adds, unless
:data:`IGNORED` names it with a reason.
"""

import json
import os
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from typing import Any

from ..arguments import TRAINING_PHASES, ClinkdArguments
from ..utils.io import read_json
from ..utils.value_checks import split_list
from .content import ContentHashes, dataset_fingerprint, model_fingerprint, named_content


IGNORED: dict[str, tuple[str, ...]] = {
    "names a folder for output or caches, not its content": (
        "output_dir", "overwrite_output_dir", "logging_dir", "cache_dir", "overwrite_cache", "offload_folder",
        "save_on_each_node", "data_shared_file_system",
    ),
    "controls what is logged, plotted or reported": (
        "disable_tqdm", "log_level", "log_level_replica", "log_on_each_node", "logging_first_step", "logging_steps",
        "logging_strategy", "logging_nan_inf_filter", "report_to", "run_name", "project", "trackio_space_id",
        "trackio_bucket_id", "trackio_static_space_id", "use_swanlab", "swanlab_project", "swanlab_workspace",
        "swanlab_run_name", "swanlab_mode", "swanlab_logdir", "swanlab_lark_webhook_url", "plot_loss", "debug",
        "print_param_status", "badam_verbose", "skip_memory_metrics", "include_num_input_tokens_seen",
        "include_effective_tokens_per_second", "correction_token_prices",
    ),
    "is a secret, or permission to use a server or a hub": (
        "hub_token", "hf_hub_token", "ms_hub_token", "om_hub_token", "swanlab_api_key", "swanlab_lark_secret",
        "trust_remote_code", "correction_allow_remote", "correction_allow_http", "generation_allow_remote",
        "generation_allow_http", "kd_teacher_allow_remote", "kd_teacher_allow_http",
    ),
    "publishes a finished model": (
        "push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision",
    ),
    "is compared apart, because other ranks may train the same rows in each step": (
        "per_device_train_batch_size", "gradient_accumulation_steps",
    ),
    "decides how much of a checkpoint is kept; a resumed run equals an uninterrupted one": (
        "save_total_limit", "save_only_model", "resume_from_checkpoint", "enable_jit_checkpoint",
    ),
    "is set by each phase, by LLaMA-Factory or from other fields": (
        "use_clinkd", "clinkd_phases", "stage", "do_train", "do_eval", "do_predict", "predict_with_generate",
        "num_train_epochs", "eval_on_each_dataset", "remove_unused_columns", "label_names", "generation_max_length",
        "generation_num_beams", "model_max_length", "block_diag_attn",
    ),
    "decides where and how fast the same computation runs": (
        "fsdp", "fsdp_config", "ddp_backend", "ddp_timeout", "ddp_bucket_cap_mb", "ddp_static_graph",
        "ddp_find_unused_parameters", "ddp_broadcast_buffers", "local_rank", "device_map", "use_cpu",
        "low_cpu_mem_usage", "gradient_checkpointing", "gradient_checkpointing_kwargs", "use_reentrant_gc",
        "disable_gradient_checkpointing", "use_unsloth_gc", "torch_empty_cache_steps", "preprocessing_num_workers",
        "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
        "dataloader_prefetch_factor", "kd_cache", "kd_teacher_offload", "correction_concurrency",
        "correction_base_url", "generation_base_url", "generation_phases", "generation_concurrency",
        "kd_teacher_base_url",
    ),
}  # fmt: skip
"""Reason -> fields that cannot change a result."""

BEST_MODEL_FIELDS = (
    "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "save_strategy", "save_steps",
    "metric_for_best_model", "greater_is_better", "compute_accuracy",
)  # fmt: skip
"""Ignored too unless evaluations choose the model (``load_best_model_at_end``, ``early_stopping_steps``)."""

RECORDED_BY_CONTENT = ("model_name_or_path", "adapter_name_or_path", "dataset_dir", "seed", "deepspeed")
"""Recorded by :func:`phase_inputs` itself, in every phase that they concern."""

WITHOUT_CONTENT = ("media_dir", "ref_model", "ref_model_adapters")
"""Paths whose content is recorded under another key; of media, only the files that the rows name."""

ENGINE_ONLY = (
    "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "train_batch_size",
    "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "steps_per_print", "wall_clock_breakdown",
    "activation_checkpointing", "flops_profiler", "comms_logger", "aio", "tensorboard", "wandb", "csv_monitor",
)  # fmt: skip
"""Sections of a DeepSpeed file that decide where and how fast the same computation runs, or what is logged."""

LAUNCHED_DEEPSPEED = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_GRADIENT_CLIPPING")
"""Variables in which ``accelerate launch`` passes its configuration; its others decide where and how fast it runs."""

MODEL_PHASES = ("pseudo_label", "distill", "correct", "predict")
GROUP_PHASES = {
    "model": MODEL_PHASES,
    "data": MODEL_PHASES,
    "training": TRAINING_PHASES,
    "finetuning": TRAINING_PHASES,
    "generating": ("pseudo_label", "correct", "predict"),
}
"""Argument group -> the phases that its fields concern."""

FIELD_PHASES = {
    MODEL_PHASES: ("image_square", "bf16_full_eval", "fp16_full_eval", "tf32"),
    ("pseudo_label",): ("generation_model",),
    ("pseudo_label", "distill"): ("pseudo_label_samples", "ref_model", "teacher_rope_variant"),
    ("distill", "correct", "predict"): ("rope_variant", "rope_sections", "mcg_"),
    ("distill",): ("kd_", "pseudo_label_target"),
    ("correct",): ("correct",),
    ("predict",): ("sasg_", "eval_dataset", "per_device_eval_batch_size"),
    ("evaluate",): ("spice_jars",),
}
"""Phases -> the fields (starts of their names) that concern them, where they are not those of the group."""

ALWAYS_RECORDED = frozenset((
    "template", "dataset", "eval_dataset", "cutoff_len", "max_samples", "val_size", "train_on_prompt", "mask_history",
    "packing", "neat_packing", "mix_strategy", "interleave_probs", "default_system", "tool_format",
    "quantization_bit", "image_max_pixels", "image_min_pixels", "rope_scaling", "flash_attn", "learning_rate",
    "lr_scheduler_type", "warmup_steps", "warmup_ratio",
    "weight_decay", "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "bf16", "fp16",
    "label_smoothing_factor", "neftune_noise_alpha", "finetuning_type", "lora_rank", "lora_alpha", "lora_dropout",
    "lora_target", "freeze_vision_tower", "freeze_multi_modal_projector", "freeze_language_model",
    "freeze_trainable_layers", "use_badam", "use_galore", "pure_bf16", "disable_shuffling", "ref_model",
    "ref_model_adapters", "ref_model_quantization_bit", "num_beams", "max_new_tokens", "max_length", "temperature",
    "top_p", "top_k", "repetition_penalty", *(item.name for item in fields(ClinkdArguments)),
))  # fmt: skip
"""Recorded at their default too: these defaults differ between versions. Of other fields only changes are recorded."""


def phase_inputs(
    phase: str, arguments: Any, previous: str | None, hashes: ContentHashes | None = None
) -> dict[str, Any]:
    """Everything that changes a phase's result, JSON-able; ``previous`` is the hash of the phase before this one."""
    hashes = hashes or ContentHashes()
    data, model, finetuning = arguments.data, arguments.model, arguments.finetuning
    selects_model = bool(arguments.training.load_best_model_at_end or finetuning.early_stopping_steps)
    ignored = {*RECORDED_BY_CONTENT, *(name for names in IGNORED.values() for name in names)}
    if not selects_model:
        ignored.update(BEST_MODEL_FIELDS)
    if finetuning.sasg_mode != "sample":  # only sampled answers depend on the batch that a row is in
        ignored.add("per_device_eval_batch_size")
    if data.media_dir == data.dataset_dir:
        ignored.add("media_dir")

    inputs = {"previous": previous, "seed": arguments.training.seed}
    for group, default_phases in GROUP_PHASES.items():
        for item in fields(getattr(arguments, group)):
            value = getattr(getattr(arguments, group), item.name)
            own_phases = (phases for phases, starts in FIELD_PHASES.items() if item.name.startswith(starts))
            counts = item.name not in ignored and phase in next(own_phases, default_phases)
            if counts and (item.name in ALWAYS_RECORDED or not _is_default(item, value)):
                inputs[item.name] = asdict(value) if is_dataclass(value) else value
                content = None if item.name in WITHOUT_CONTENT else named_content(value, hashes)
                if content is not None:
                    inputs[f"{item.name} (content)"] = content
    if phase == "distill" and finetuning.kd_on_policy != 0:
        inputs["max_new_tokens"] = arguments.generating.max_new_tokens  # of the sampled answers
    if phase in MODEL_PHASES:

        def fingerprints(paths: Any) -> list[Any]:
            return [model_fingerprint(path, hashes, model.adapter_folder) for path in split_list(paths)]

        datasets = data.eval_dataset if phase == "predict" and data.eval_dataset else data.dataset
        inputs |= dataset_fingerprint(datasets, data, hashes)
        if selects_model and phase in TRAINING_PHASES:
            inputs["evaluation_files"] = dataset_fingerprint(data.eval_dataset, data, hashes)
        is_first, adapters = previous is None, model.adapter_name_or_path or []
        reads_model = is_first or phase == "pseudo_label"
        inputs["model"] = model_fingerprint(model.model_name_or_path, hashes) if reads_model else None
        inputs["adapters"] = fingerprints(adapters) if is_first else None
        if settings := engine_settings(arguments.training.deepspeed or os.environ.get(LAUNCHED_DEEPSPEED)):
            inputs["deepspeed"] = settings
        implied = ("", "no", "none", "auto", *(key for key in ("bf16", "fp16") if getattr(arguments.training, key)))
        inputs |= {name: os.environ[name] for name in LAUNCHED if os.environ.get(name, "") not in implied}
        with_teacher = phase in ("pseudo_label", "distill") or (
            phase == "correct" and finetuning.corrector == "teacher"
        )
        if finetuning.ref_model and with_teacher:
            inputs["teacher"] = model_fingerprint(finetuning.ref_model, hashes)
        if finetuning.ref_model_adapters and with_teacher:
            inputs["teacher_adapters"] = fingerprints(finetuning.ref_model_adapters)
    return json.loads(json.dumps(inputs, default=str))


def engine_settings(deepspeed: Any) -> Any:
    """What a DeepSpeed file (path or content) sets besides :data:`ENGINE_ONLY`: precision, clipping, an optimizer.

    Values ``auto`` come from the recipe, and a section that is off, or whose switch is ``auto``, sets nothing.
    """
    if isinstance(deepspeed, str):
        deepspeed = read_json(deepspeed) if os.path.isfile(deepspeed) else None if deepspeed == "none" else deepspeed
    if not isinstance(deepspeed, dict):
        return deepspeed
    sections = {name: value for name, value in deepspeed.items() if name not in ENGINE_ONLY and value != "auto"}
    return {
        name: value
        for name, value in sections.items()
        if not isinstance(value, dict) or value.get("enabled", True) not in ("auto", False)
    }


def changed_inputs(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """``"key was X, is Y"`` for each difference."""

    def shown(inputs: dict[str, Any], key: str) -> str:
        return repr(inputs[key]) if key in inputs else "the default"

    keys = sorted(key for key in set(old) | set(new) if old.get(key) != new.get(key))
    return [f"{key} was {shown(old, key)}, is {shown(new, key)}" for key in keys]


def _is_default(item: Field, value: Any) -> bool:
    """Whether a value is the field's default, also as the list or dataclass that parsing makes of it."""
    default = item.default if item.default_factory is MISSING else item.default_factory()
    defaults = [default, None, {}, []] if default in (None, {}, []) else [default]
    if isinstance(default, str):
        defaults.append(split_list(default))
    if is_dataclass(value):
        defaults.append(type(value)())
    return value in defaults
