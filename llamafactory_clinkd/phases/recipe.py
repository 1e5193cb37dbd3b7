# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The recipe of one phase: copies of LLaMA-Factory's argument groups with the few values that the phase changes."""

import copy
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from transformers.integrations import is_deepspeed_zero3_enabled


class RecipeArguments(NamedTuple):
    """The five argument groups that LLaMA-Factory parses from a recipe."""

    model: Any
    data: Any
    training: Any
    finetuning: Any
    generating: Any


def phase_arguments(arguments: RecipeArguments, output_dir: Path, **changes: Any) -> RecipeArguments:
    """A phase's copies of the groups, which stock changes when it loads; ``changes`` are training arguments."""
    arguments = RecipeArguments(*map(copy.copy, arguments))
    training = arguments.training
    changes |= {"output_dir": str(output_dir), "overwrite_output_dir": False}
    if not getattr(torch, "accelerator", torch.cuda).is_available():  # torch before 2.6 has no `accelerator`
        changes["dataloader_pin_memory"] = False  # torch does not pin then either, and warns of it at each loader
    for name, value in changes.items():
        setattr(training, name, value)
    arguments.data.eval_on_each_dataset = False
    return arguments._replace(training=fresh_engine(training))


def generating_arguments(arguments: RecipeArguments, output_dir: Path, *, over_training_rows: bool) -> RecipeArguments:
    """Arguments of a phase that generates answers for the training rows or the evaluation rows."""
    switches = {"do_train": False, "do_eval": False, "do_predict": True, "predict_with_generate": True}
    arguments = phase_arguments(arguments, output_dir, push_to_hub=False, resume_from_checkpoint=None, **switches)
    data = arguments.data
    if over_training_rows:
        data.dataset, data.eval_dataset, data.val_size = None, data.dataset, 0.0
    elif data.eval_dataset:  # a training split is loaded only where `val_size` cuts the evaluation rows from it
        data.dataset = None
    return arguments


def copyable_model_arguments(model: Any) -> Any:
    """A copy of ``ModelArguments`` that stock's ``copyfrom`` accepts: it splits the added tokens' text again."""
    model = copy.copy(model)
    for key in ("add_tokens", "add_special_tokens"):
        if isinstance(getattr(model, key), list):
            setattr(model, key, ",".join(getattr(model, key)))
    if model.new_special_tokens_config:  # names the special tokens, and takes precedence
        model.add_special_tokens = None
    return model


def teacher_place(model: Any, finetuning: Any) -> SimpleNamespace | None:
    """The recipe's ``ModelArguments`` with the teacher's name and adapters; None if no chosen phase uses a teacher."""
    phases = finetuning.clinkd_phases
    corrects = "correct" in phases and getattr(finetuning, "corrector", None) == "teacher"
    used = corrects or "pseudo_label" in phases or ("distill" in phases and finetuning.kd_method != "none")
    if not used or not (finetuning.ref_model or finetuning.ref_model_adapters):
        return None
    name = finetuning.ref_model or model.model_name_or_path
    return SimpleNamespace(
        **vars(model) | {"model_name_or_path": name, "adapter_name_or_path": finetuning.ref_model_adapters}
    )


def teacher_model_arguments(arguments: RecipeArguments) -> Any:
    """``ModelArguments`` that load the teacher: stock's ``ref_model*`` keys in place of the model's.

    With ``ref_model_adapters`` and no ``ref_model``, the teacher is the student's base under the teacher's adapters.
    """
    finetuning = arguments.finetuning
    return type(arguments.model).copyfrom(
        copyable_model_arguments(arguments.model),
        model_name_or_path=finetuning.ref_model or arguments.model.model_name_or_path,
        adapter_name_or_path=finetuning.ref_model_adapters,
        quantization_bit=finetuning.ref_model_quantization_bit,
    )


def adapter_options(model: Any) -> dict[str, Any]:
    """PEFT's options that find an adapter as stock does."""
    options = {"cache_dir": model.cache_dir, "revision": model.model_revision, "token": model.hf_hub_token}
    return options | {"subfolder": model.adapter_folder}


def is_adapter(finetuning_type: str) -> bool:
    """Whether training of this type writes an adapter, not a whole model."""
    return finetuning_type in ("lora", "oft")


def with_model(arguments: RecipeArguments, folder: Path | None) -> RecipeArguments:
    """Arguments that load the model (or adapter) an earlier phase wrote to ``folder``; ``None`` changes nothing."""
    if folder is None:
        return arguments
    model, finetuning = copy.copy(arguments.model), copy.copy(arguments.finetuning)
    if is_adapter(finetuning.finetuning_type):  # never by what lies in the folder
        model.adapter_name_or_path = [*_merged_adapters(arguments), str(folder)]
        model.adapter_folder = None
        finetuning.create_new_adapter = False
    else:
        model.model_name_or_path = str(folder)
    return arguments._replace(model=model, finetuning=finetuning)


def _merged_adapters(arguments: RecipeArguments) -> list[str]:
    """The recipe's adapters that stock merges into the base; the trained adapter needs them below it."""
    adapters = [_adapter_place(name, arguments.model) for name in arguments.model.adapter_name_or_path or []]
    if arguments.model.quantization_bit is not None or is_deepspeed_zero3_enabled():
        return []  # stock merges nothing: it takes one adapter and continues to train it
    return adapters if arguments.finetuning.create_new_adapter else adapters[:-1]


def _adapter_place(name: str, model: Any) -> str:
    """An adapter's name without ``adapter_folder``, or its folder below; of a hub adapter, that in the cache."""
    if not model.adapter_folder:
        return name
    if not os.path.isdir(name):
        hub = {"revision": model.model_revision, "cache_dir": model.cache_dir, "token": model.hf_hub_token}
        name = snapshot_download(name, allow_patterns=f"{model.adapter_folder}/*", **hub)
    return os.path.join(name, model.adapter_folder)


def beam_settings(generating: Any, beams: int) -> dict[str, Any]:
    """Keyword arguments of beam search (section 4.3), without sampling."""
    sampling_off = {"temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": False, "num_beams": max(beams, generating.num_beams), **sampling_off}


def fresh_engine(training: Any) -> Any:
    """Gives a phase's copy of the training arguments a DeepSpeed configuration that no earlier phase has used."""
    if not training.deepspeed:
        return training

    from accelerate.state import AcceleratorState
    from accelerate.utils import DeepSpeedPlugin
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    AcceleratorState._reset_state()  # the process group, which belongs to `PartialState`, stays
    training.hf_deepspeed_config = HfTrainerDeepSpeedConfig(training.deepspeed)
    training.hf_deepspeed_config.trainer_config_process(training)
    training.deepspeed_plugin = DeepSpeedPlugin(hf_ds_config=training.hf_deepspeed_config)
    return training
