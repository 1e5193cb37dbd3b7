# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The recipe of one phase: copies of LLaMA-Factory's argument groups with the few values that the phase changes."""

import copy
from pathlib import Path
from typing import Any

from transformers.integrations import is_deepspeed_zero3_enabled

from .checkpoints import last_whole_checkpoint
from .distributed import fresh_engine


def training_arguments(arguments: Any, output_dir: Path, *, epochs: float, resume: bool, is_last: bool) -> Any:
    """Arguments of a training phase that writes its model to ``output_dir``.

    Args:
        arguments: The recipe.
        output_dir: Where checkpoints and the model go.
        epochs: Number of epochs; ``num_train_epochs`` of the recipe is not used.
        resume: Whether to continue from the last whole checkpoint in ``output_dir``.
        is_last: Whether this is the model that the recipe asked for, and may be pushed if the recipe says so.
    """
    training = copy.copy(arguments.training)
    training.output_dir = str(output_dir)
    training.num_train_epochs = epochs
    training.do_train = True
    training.do_predict = False
    training.predict_with_generate = False
    training.overwrite_output_dir = False
    training.push_to_hub = training.push_to_hub and is_last
    checkpoint = last_whole_checkpoint(output_dir) if resume else None
    training.resume_from_checkpoint = None if checkpoint is None else str(checkpoint)
    data = copy.copy(arguments.data)
    data.eval_on_each_dataset = False
    return arguments._replace(training=fresh_engine(training), data=data)


def generating_arguments(arguments: Any, output_dir: Path, *, over_training_rows: bool) -> Any:
    """Arguments of a phase that generates answers for the training rows or the evaluation rows."""
    training = copy.copy(arguments.training)
    training.output_dir = str(output_dir)
    training.do_train = training.do_eval = False
    training.do_predict = training.predict_with_generate = True
    training.resume_from_checkpoint = None
    training.overwrite_output_dir = False
    training.push_to_hub = False
    data = copy.copy(arguments.data)
    data.eval_on_each_dataset = False
    if over_training_rows:
        data.dataset, data.eval_dataset, data.val_size = None, data.dataset, 0.0
    return arguments._replace(training=fresh_engine(training), data=data)


def with_model(arguments: Any, folder: Path | None) -> Any:
    """Arguments that load the model (or adapter) an earlier phase wrote to ``folder``; ``None`` changes nothing."""
    if folder is None:
        return arguments
    model = copy.copy(arguments.model)
    if (folder / "adapter_config.json").is_file():
        model.adapter_name_or_path = [*_merged_adapters(arguments), str(folder)]
        finetuning = copy.copy(arguments.finetuning)
        finetuning.create_new_adapter = False
        return arguments._replace(model=model, finetuning=finetuning)
    model.model_name_or_path = str(folder)
    return arguments._replace(model=model)


def _merged_adapters(arguments: Any) -> list[str]:
    """The recipe's adapters that stock merges into the base before it trains one: what was trained stands on them.

    Over quantised weights and under ZeRO-3 stock merges nothing: it takes one adapter, and goes on training that.
    """
    adapters = list(arguments.model.adapter_name_or_path or [])
    if arguments.model.quantization_bit is not None or is_deepspeed_zero3_enabled():
        return []
    return adapters if arguments.finetuning.create_new_adapter else adapters[:-1]


def beam_settings(generating: Any, beams: int) -> dict[str, Any]:
    """Keyword arguments of non-sampling beam search (section 4.3): sampling keys are taken out."""
    return {"do_sample": False, "num_beams": max(beams, generating.num_beams), **SAMPLING_OFF}


def sample_settings() -> dict[str, Any]:
    """Keyword arguments of sampling with the recipe's temperature, top-p and top-k."""
    return {"do_sample": True, "num_beams": 1}


SAMPLING_OFF = {"temperature": None, "top_p": None, "top_k": None}
