# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What each phase ran with: recipe keys that matter to it, data, model, and the phase that feeds it."""

import json
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from ..utils.io import content_hash, file_sha256, sampled_sha256
from ..utils.value_checks import split_list


DATA_KEYS = (
    "template", "dataset", "cutoff_len", "max_samples", "val_size", "train_on_prompt", "mask_history", "packing",
    "neat_packing", "mix_strategy", "interleave_probs", "default_system", "tool_format",
)  # fmt: skip
MODEL_KEYS = ("quantization_bit", "image_max_pixels", "image_min_pixels", "rope_scaling", "flash_attn")
TRAINING_KEYS = (
    "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "lr_scheduler_type", "warmup_steps",
    "warmup_ratio", "weight_decay", "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "bf16",
    "fp16", "label_smoothing_factor", "neftune_noise_alpha",
)  # fmt: skip
FINETUNING_KEYS = (
    "finetuning_type", "lora_rank", "lora_alpha", "lora_dropout", "lora_target", "freeze_vision_tower",
    "freeze_multi_modal_projector", "freeze_language_model", "freeze_trainable_layers", "use_badam", "use_galore",
    "pure_bf16", "disable_shuffling",
)  # fmt: skip
# Recorded only where they are not at stock's default.
MORE_DATA_KEYS = ("ignore_pad_token_for_loss", "enable_thinking", "preserve_thinking")
MORE_MODEL_KEYS = (
    "model_revision", "adapter_folder", "quantization_method", "quantization_type", "double_quantization",
    "resize_vocab", "add_tokens", "add_special_tokens", "shift_attn", "mixture_of_depths", "upcast_layernorm",
    "upcast_lmhead_output", "train_from_scratch", "image_do_pan_and_scan", "crop_to_patches", "video_max_pixels",
    "video_min_pixels", "video_fps", "video_maxlen",
)  # fmt: skip
MORE_TRAINING_KEYS = (
    "lr_scheduler_kwargs", "optim_args", "optim_target_modules", "data_seed", "train_sampling_strategy",
    "dataloader_drop_last", "load_best_model_at_end",
)  # fmt: skip
MORE_FINETUNING_KEYS = (
    "create_new_adapter", "additional_target", "module_dropout", "use_rslora", "use_dora", "pissa_init", "pissa_iter",
    "loraplus_lr_ratio", "loraplus_lr_embedding", "oft_rank", "oft_block_size", "oft_target",
    "freeze_trainable_modules", "freeze_extra_modules", "use_llama_pro", "badam_mode", "badam_start_block",
    "badam_switch_mode", "badam_switch_interval", "badam_update_ratio", "badam_mask_mode", "galore_target",
    "galore_rank", "galore_update_interval", "galore_scale", "galore_proj_type", "galore_layerwise", "use_apollo",
    "apollo_target", "apollo_rank", "apollo_update_interval", "apollo_scale", "apollo_proj", "apollo_proj_type",
    "apollo_scale_type", "apollo_layerwise", "apollo_scale_front", "use_adam_mini", "use_muon", "early_stopping_steps",
)  # fmt: skip
MORE_GENERATION_KEYS = ("length_penalty",)
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")
POSITION_KEYS = ("rope_variant", "mcg_alpha_h", "mcg_alpha_w", "mcg_gap", "rope_sections", "image_square")
TEACHER_KEYS = ("ref_model", "ref_model_adapters", "ref_model_quantization_bit", "teacher_rope_variant")
PHASE_KEYS = {
    "pseudo_label": ("pseudo_label_samples", "image_square", *TEACHER_KEYS),
    "distill": (
        "kd_method", "kd_alpha", "kd_temperature", "kd_temperature_squared", "kd_noise_std", "kd_epochs",
        "pseudo_label_samples", "pseudo_label_target", *TEACHER_KEYS, *POSITION_KEYS, *FINETUNING_KEYS,
    ),
    "correct": (
        "correction_rounds", "correction_threshold", "correction_iou", "correction_outputs", "correction_similarity",
        "correction_similarity_model", "corrector", "correction_model", "correction_candidates",
        "correction_max_samples", "correction_max_requests", "correction_prompt", "correction_scorer",
        *POSITION_KEYS, *FINETUNING_KEYS,
    ),
    "predict": ("sasg_candidates", "sasg_mode", "sasg_scorer", "sasg_region", *POSITION_KEYS),
    "evaluate": ("spice_jars",),
}  # fmt: skip
GENERATING_PHASES = ("pseudo_label", "correct", "predict")
GENERATION_KEYS = ("num_beams", "max_new_tokens", "max_length", "temperature", "top_p", "top_k", "repetition_penalty")


def phase_inputs(phase: str, arguments: Any, previous: str | None) -> dict[str, Any]:
    """Everything that changes a phase's result, JSON-able.

    Args:
        phase: One of :data:`llamafactory_clinkd.arguments.PHASES`.
        arguments: The recipe, a ``RecipeArguments``.
        previous: Hash of the phase that feeds this one.
    """
    inputs = {"previous": previous, "seed": arguments.training.seed}
    inputs.update(_pick(arguments.finetuning, PHASE_KEYS[phase]))
    if phase == "evaluate":
        return inputs

    inputs.update(_pick(arguments.data, DATA_KEYS) | _changed(arguments.data, MORE_DATA_KEYS))
    inputs.update(_pick(arguments.model, MODEL_KEYS) | _changed(arguments.model, MORE_MODEL_KEYS))
    if phase in ("distill", "correct"):
        inputs.update(_pick(arguments.training, TRAINING_KEYS) | _changed(arguments.training, MORE_TRAINING_KEYS))
        inputs.update(_changed(arguments.finetuning, MORE_FINETUNING_KEYS))
    if phase in GENERATING_PHASES:
        generating = arguments.generating
        inputs.update(_pick(generating, GENERATION_KEYS) | _changed(generating, MORE_GENERATION_KEYS))
    if phase == "predict":
        inputs["eval_dataset"] = arguments.data.eval_dataset
    names = (
        arguments.data.eval_dataset if phase == "predict" and arguments.data.eval_dataset else arguments.data.dataset
    )
    inputs["data_files"] = dataset_fingerprint(names, arguments.data.dataset_dir)
    model = arguments.model
    inputs["model"] = (
        model_fingerprint(model.model_name_or_path) if previous is None or phase == "pseudo_label" else None
    )
    inputs["adapters"] = (
        [model_fingerprint(path) for path in model.adapter_name_or_path or []] if previous is None else None
    )
    if arguments.finetuning.ref_model and phase in ("pseudo_label", "distill"):
        inputs["teacher"] = model_fingerprint(arguments.finetuning.ref_model)
    if arguments.finetuning.ref_model_adapters and phase in ("pseudo_label", "distill"):
        adapters = split_list(arguments.finetuning.ref_model_adapters)
        inputs["teacher_adapters"] = [model_fingerprint(path) for path in adapters]
    return json.loads(json.dumps(inputs, default=str))


def inputs_hash(inputs: dict[str, Any]) -> str:
    """The hash by which a phase's inputs are compared."""
    return content_hash(inputs)


def changed_inputs(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """``"key was X, is Y"`` for each difference."""

    def shown(inputs: dict[str, Any], key: str) -> str:
        return repr(inputs[key]) if key in inputs else "the default"

    keys = sorted(key for key in set(old) | set(new) if old.get(key) != new.get(key))
    return [f"{key} was {shown(old, key)}, is {shown(new, key)}" for key in keys]


def model_fingerprint(name_or_path: str) -> Any:
    """A hub name as it is; a local folder as its configuration's hash and its weight files.

    Of each weight file the name, the size in bytes and 16 digits of :func:`.run_state.sampled_sha256`.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        return name_or_path
    weights = sorted(path for pattern in WEIGHT_FILES for path in folder.glob(pattern))
    configs = [folder / name for name in ("config.json", "adapter_config.json") if (folder / name).is_file()]
    return {
        "weights": [(path.name, path.stat().st_size, sampled_sha256(path)[:16]) for path in weights],
        "configs": [file_sha256(path) for path in configs],
    }


def dataset_fingerprint(names: Any, dataset_dir: Any) -> dict[str, Any]:
    """Hash of each local data file named in ``dataset_info.json``; other sources by name."""
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names or [])
    info_path = Path(dataset_dir, "dataset_info.json") if isinstance(dataset_dir, str) else None
    info = json.loads(info_path.read_text(encoding="utf-8")) if info_path and info_path.is_file() else {}
    found = {}
    for name in names:
        entry = info.get(name, {})
        path = Path(dataset_dir, entry["file_name"]) if "file_name" in entry else None
        found[name] = file_sha256(path) if path and path.is_file() else json.dumps(entry, sort_keys=True)
    return found


def _changed(group: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """Values that are not stock's defaults, some of which it splits into lists."""
    defaults = {item.name: item.default for item in fields(group)}
    lists = {key: split_list(value) for key, value in defaults.items() if isinstance(value, str)}
    values = {key: value for key, value in _pick(group, keys).items() if value not in (None, {})}
    return {key: value for key, value in values.items() if value not in (defaults[key], lists.get(key))}


def _pick(group: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    values = {key: getattr(group, key) for key in keys if hasattr(group, key)}
    return {key: asdict(value) if is_dataclass(value) else value for key, value in values.items()}
