# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The supported versions, checked before the first patch, and the table of the names that the hooks rely on."""

import contextlib
import functools
import importlib
import inspect
from importlib.metadata import PackageNotFoundError, version


SUPPORTED = {
    "llamafactory": (">=0.9.5,<0.10", "0.9.5 is the first whose SFT trainer takes `ref_model`"),
    "transformers": (">=5.0,<5.9", "the correction rounds extend `Trainer._run_epoch`, new in 5.0"),
}


class UnsupportedVersionError(RuntimeError):
    """An installed package is outside the supported range."""


def found_versions() -> dict[str, str | None]:
    """Installed version of each package in :data:`SUPPORTED`, ``None`` if it is missing."""
    versions: dict[str, str | None] = dict.fromkeys(SUPPORTED)
    for package in SUPPORTED:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@functools.cache
def require_supported_versions() -> None:
    """Raises ``UnsupportedVersionError``, with the installing command, if a package is outside its range."""
    from packaging.specifiers import SpecifierSet

    for package, found in found_versions().items():
        required, reason = SUPPORTED[package]
        if found is None or not SpecifierSet(required, prereleases=True).contains(found):
            raise UnsupportedVersionError(
                f"Found {package} {found or '(not installed)'}, required {required} ({reason}). "
                f"Run: pip install '{package}{required}'"
            )


STAGES = ("pt", "dpo", "kto", "rm", "ppo")  # LLaMA-Factory's training stages besides SFT

SEAMS: dict[str, tuple[str, ...]] = {
    "llamafactory.hparams.parser": (
        "FinetuningArguments", "_TRAIN_ARGS", "_INFER_ARGS", "_EVAL_ARGS", "_parse_args", "read_args",
        "get_last_checkpoint", "get_train_args", "get_infer_args",
    ),
    "llamafactory.extras.misc": ("try_download_model_from_other_hub",),
    "llamafactory.hparams.finetuning_args": (
        "FinetuningArguments(ref_model)", "FinetuningArguments(ref_model_adapters)",
        "FinetuningArguments(ref_model_quantization_bit)", "FinetuningArguments(freeze_vision_tower)",
    ),
    "llamafactory.train.sft.workflow": (
        "run_sft(generating_args)", "run_sft(callbacks)", "CustomSeq2SeqTrainer", "load_model", "load_tokenizer",
        "create_ref_model", "get_template_and_fix_tokenizer",
    ),
    "llamafactory.train.sft.trainer": ("CustomSeq2SeqTrainer.__init__(ref_model)",),
    **{
        f"llamafactory.train.{stage}.workflow": (f"run_{stage}", "load_model", "get_template_and_fix_tokenizer")
        for stage in STAGES
    },
    "llamafactory.train.trainer_utils": ("load_model", "create_ref_model"),
    "llamafactory.train.tuner": ("run_sft", "load_model(is_trainable)", "run_exp", "export_model"),
    "llamafactory.train.callbacks": ("LogCallback.on_log", "LogCallback._write_log", "ReporterCallback"),
    "llamafactory.data.loader": ("align_dataset", "_get_preprocessed_dataset(is_eval)"),
    "llamafactory.data.mm_plugin": ("Qwen2VLPlugin._preprocess_image", "Qwen2VLPlugin._get_mm_inputs"),
    "llamafactory.data.collator": ("MultiModalDataCollatorForSeq2Seq",),
    "llamafactory.chat.hf_engine": ("HuggingfaceEngine.__init__(generating_args)",),
    "llamafactory.chat.chat_model": ("get_infer_args", "ChatModel"),
    "llamafactory.v1.config.arg_parser": ("HfArgumentParser",),
    "llamafactory.webui.interface": ("create_train_tab", "create_eval_tab", "create_chat_box"),
    "llamafactory.webui.components.infer": ("create_chat_box",),
    "llamafactory.webui.chatter": ("WebChatModel.load_model",),
    "llamafactory.webui.common": ("_clean_cmd", "get_save_dir"),
    "llamafactory.webui.runner": (
        "Runner._parse_train_args", "Runner._parse_eval_args", "Runner._initialize", "Runner._build_config_dict",
        "Runner.load_args", "Runner.check_output_dir", "Runner.monitor", "get_trainer_info", "gen_cmd",
    ),
    "transformers.trainer": ("Trainer._run_epoch", "Trainer._get_num_items_in_batch"),
    "transformers.models.qwen2_vl.modeling_qwen2_vl": (
        "Qwen2VLModel.get_rope_index", "Qwen2VLForConditionalGeneration.forward(logits_to_keep)",
    ),
}  # fmt: skip
"""Module -> the names, ``name(parameter)`` where a parameter matters, that the hooks and phases use."""


def missing_seams(seams: dict[str, tuple[str, ...]] | None = None) -> list[str]:
    """Names of ``seams`` (default :data:`SEAMS`) that the installed packages lack, with what is wrong, one a line."""
    problems = []
    for module_name, names in (SEAMS if seams is None else seams).items():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            problems.append(f"{module_name}: cannot be imported ({error})")
            continue
        for name in names:
            path, _, parameter = name.rstrip(")").partition("(")
            try:
                value = functools.reduce(getattr, path.split("."), module)
            except AttributeError:
                problems.append(f"{module_name}.{name}: does not exist")
                continue
            if parameter and parameter not in inspect.signature(value).parameters:
                problems.append(f"{module_name}.{name}: takes no parameter `{parameter}`")
    return problems
