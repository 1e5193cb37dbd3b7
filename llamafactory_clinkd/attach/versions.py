# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The supported versions, what is known to be wrong in some of them, and the names that the hooks rely on."""

import functools
import importlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..utils.environment import installed_version


logger = logging.getLogger(__name__)

SUPPORTED = {
    "llamafactory": (">=0.9.5,<0.10", "0.9.5 is the first whose SFT trainer takes `ref_model`"),
    "transformers": (">=5.0,<5.9", "older ones are not tested"),
}


class UnsupportedVersionError(RuntimeError):
    """An installed package is outside the supported range."""


def found_versions() -> dict[str, str | None]:
    """Installed version of each package in :data:`SUPPORTED`, ``None`` if it is missing."""
    return {package: installed_version(package) for package in SUPPORTED}


@functools.cache
def require_supported_versions() -> None:
    """Raises ``UnsupportedVersionError``, with the installing command, if a package is outside its range."""
    for package, found in found_versions().items():
        required, reason = SUPPORTED[package]
        if found is None or not _is_in(found, required):
            raise UnsupportedVersionError(
                f"Found {package} {found or '(not installed)'}, required {required} ({reason}). "
                f"Run: pip install '{package}{required}'"
            )


def _is_in(found: str, required: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(required, prereleases=True).contains(found)


@dataclass(frozen=True)
class KnownProblem:
    """What stock gets wrong in some versions, if a run is concerned."""

    package: str
    versions: str
    concerns: Callable[[Any], bool]  # of a `run_facts.RunFacts`
    condition: str
    problem: str
    way_out: str
    refused: bool = True  # else a warning

    def __str__(self) -> str:
        return f"{self.package} {self.versions} with {self.condition}: {self.problem}. {self.way_out}"


def _install(transformers: str) -> str:
    """The way out with the newest version that release 0.9.5 allows and that has not the problem."""
    return (
        f"Install another version: with LLaMA-Factory 0.9.5 `pip install 'transformers=={transformers}'`, with its "
        "main branch `pip install 'transformers==5.8.0'`"
    )


KNOWN_PROBLEMS = (
    KnownProblem(
        "transformers", "==5.6.0", lambda run: run.flash_attention,
        "`flash_attn: fa2` or fa3 (Gemma 2: also auto)",
        "the first attention layer ends with \"'NoneType' object has no attribute 'to'\" (transformers #45588)",
        f"Set `flash_attn: sdpa`. {_install('5.5.4')}.",
    ),
    KnownProblem(
        "transformers", ">=5.3.0,<=5.5.3", lambda run: "qwen2_5_vl" in run.stock_positions,
        "LLaMA-Factory's positions of Qwen2.5-VL",
        "the temporal positions of images are multiplied by tokens_per_second (transformers #45325)",
        f"{_install('5.6.0')}. A student (not a teacher) may have `rope_variant: mcg_released` with `mcg_gap: 1`, "
        "which are the right positions.",
    ),
    KnownProblem(
        "transformers", ">=5.3.0,<=5.5.4",
        lambda run: not run.stock_positions.isdisjoint(("qwen2_vl", "qwen2_5_vl")) and run.videos,
        "LLaMA-Factory's positions of videos in Qwen2-VL and Qwen2.5-VL",
        "all frames get the same temporal position and the rows of frames are mixed up (transformers #45381)",
        f"{_install('5.6.0')}.",
    ),
    KnownProblem(
        "transformers", ">=5.0,<5.9", lambda run: "qwen2_5_vl" in run.model_types and run.videos,
        "videos in Qwen2.5-VL",
        "seconds between frames are cut to whole numbers: with `video_fps` above 2, all frames have one temporal "
        "position (transformers #48669)",
        "Set `video_fps` to 2 or 1, which leave 1 and 2 whole seconds.",
        refused=False,
    ),
    KnownProblem(
        "llamafactory", "<=0.9.6.dev0", lambda run: run.initialises_tokens_wrongly,
        "`add_tokens`, `add_special_tokens` or `new_special_tokens_config`",
        "where the embedding has spare rows, as Qwen's has, the new tokens' rows are not initialised, and "
        "descriptions go to other rows (LLaMA-Factory #10547)",
        "Install LLaMA-Factory's main branch, or train without new tokens.",
        refused=False,
    ),
)  # fmt: skip
"""One line for each thing that stock gets wrong; a line goes when its versions are no longer supported."""


def known_problems() -> list[KnownProblem]:
    """The lines of :data:`KNOWN_PROBLEMS` about an installed version."""
    found = found_versions()
    return [each for each in KNOWN_PROBLEMS if found[each.package] and _is_in(found[each.package], each.versions)]


def check_known_problems(run: Any) -> None:
    """Logs the known problems that concern a run (``run_facts.RunFacts``).

    Raises:
        UnsupportedVersionError: If one of them makes its results wrong, with the way out.
    """
    concerning = [each for each in known_problems() if each.concerns(run)]
    for each in concerning:
        if each.refused:
            raise UnsupportedVersionError(f"{found_versions()[each.package]} is installed. {each}")
        logger.warning("%s is installed. %s", found_versions()[each.package], each)


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
    "llamafactory.chat.vllm_engine": ("VllmEngine.__init__(generating_args)",),
    "llamafactory.chat.chat_model": ("get_infer_args", "ChatModel"),
    "llamafactory.v1.config.arg_parser": ("HfArgumentParser",),
    "llamafactory.webui.interface": ("create_top", "create_train_tab", "create_eval_tab", "create_chat_box"),
    "llamafactory.webui.components.infer": ("create_chat_box",),
    "llamafactory.webui.chatter": ("WebChatModel.load_model",),
    "llamafactory.webui.common": ("_clean_cmd", "get_save_dir"),
    "llamafactory.webui.runner": (
        "Runner._parse_train_args", "Runner._parse_eval_args", "Runner._initialize", "Runner._build_config_dict",
        "Runner.load_args", "Runner.check_output_dir", "Runner.monitor", "get_trainer_info", "gen_cmd",
    ),
    "transformers.trainer": (
        "Trainer._maybe_log_save_evaluate", "Trainer._get_num_items_in_batch", "Trainer.set_initial_training_values",
        "Trainer._run_epoch >=5.3",
    ),
    "transformers.models.qwen2_vl.modeling_qwen2_vl": (
        "Qwen2VLModel.get_rope_index", "Qwen2VLForConditionalGeneration.forward(logits_to_keep)",
    ),
}  # fmt: skip
"""Module -> the names that the hooks and phases use.

``name(parameter)`` where a parameter matters; ``name >=1.2`` for a name of some versions of the module's package.
"""


def missing_seams(seams: dict[str, tuple[str, ...]] | None = None) -> list[str]:
    """Names of ``seams`` (default :data:`SEAMS`) that the installed packages lack, with what is wrong, one a line."""
    problems = []
    for module_name, names in (SEAMS if seams is None else seams).items():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            problems.append(f"{module_name}: cannot be imported ({error})")
            continue
        for name, _, versions in (each.partition(" ") for each in names):
            if versions and not _is_in(installed_version(module_name.partition(".")[0]) or "0", versions):
                continue
            path, _, parameter = name.rstrip(")").partition("(")
            try:
                value = functools.reduce(getattr, path.split("."), module)
            except AttributeError:
                problems.append(f"{module_name}.{name}: does not exist")
                continue
            if parameter and parameter not in inspect.signature(value).parameters:
                problems.append(f"{module_name}.{name}: takes no parameter `{parameter}`")
    return problems
