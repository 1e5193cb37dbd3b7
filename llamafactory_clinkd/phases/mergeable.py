# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Refuses adapters that prediction and export would merge into another model than the one that was trained.

PEFT merges an adapter of one of two modules that share a weight into both of them. (A module in ``additional_target``
becomes a weight of its own; that is saved and loaded as trained.) PiSSA with iterations draws random numbers for the
base's residual each time an adapter is loaded.
"""

import re
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ..arguments import TRAINING_PHASES
from ..utils.models import text_config
from ..utils.value_checks import bad_value, split_list
from .recipe import adapter_options, is_adapter, teacher_place


def check_mergeable(arguments: Any) -> None:
    """Checks the adapter that the recipe trains, and those that it names, before the first phase.

    Raises:
        ValueError: With the key, the module that shares its weight, and the fix.
    """
    model, finetuning = arguments.model, arguments.finetuning
    if is_adapter(finetuning.finetuning_type) and not set(TRAINING_PHASES).isdisjoint(finetuning.clinkd_phases):
        if finetuning.pissa_init and finetuning.pissa_iter != -1:
            fix = "`pissa_iter: -1`, whose exact decomposition gives the same base whenever the adapter is loaded"
            allowed = "no random decomposition with `pissa_init: true`"
            raise bad_value("pissa_iter", finetuning.pissa_iter, allowed, fix)
        if finetuning.create_new_adapter or not model.adapter_name_or_path:
            _check_new_adapter(model, finetuning)
    for key, owner in (("adapter_name_or_path", model), ("ref_model_adapters", teacher_place(model, finetuning))):
        for path in split_list(getattr(owner, "adapter_name_or_path", None) or []):
            _check_saved_adapter(key, path, owner)


def _check_new_adapter(model_args: Any, finetuning: Any) -> None:
    model, shared = _with_shared_weights(model_args)
    if shared:
        from llamafactory.model.model_utils.misc import find_all_linear_modules
        from llamafactory.model.model_utils.visual import patch_target_modules

        targets = finetuning.lora_target  # stock takes it for OFT, too
        if targets == ["all"]:
            targets = find_all_linear_modules(model, finetuning.freeze_vision_tower)
        _refuse("lora_target", finetuning.lora_target, patch_target_modules(model, finetuning, targets), shared)


def _check_saved_adapter(key: str, path: str, model_args: Any) -> None:
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(path, **adapter_options(model_args))
    init = str(getattr(config, "init_lora_weights", ""))
    if init.startswith("pissa_niter"):
        fix = "convert it to plain LoRA (`pissa_convert: true` of its training wrote `pissa_converted`)"
        raise bad_value(key, path, f"an adapter without the random numbers of `init_lora_weights: {init}`", fix)
    _, shared = _with_shared_weights(model_args)
    targets = getattr(config, "target_modules", None) or []
    if isinstance(targets, str):
        targets = [each for each in shared if re.fullmatch(targets, each)]
    _refuse(key, path, list(targets), shared)


def _refuse(key: str, value: Any, targets: list[str], shared: dict[str, str]) -> None:
    """Raises ``ValueError`` if a target, a module's name or its end, is among the modules that share a weight."""
    for name, other in shared.items():
        if any(name == target or name.endswith(f".{target}") for target in targets):
            value = ",".join(map(str, value)) if isinstance(value, (list, tuple, set)) else value
            raise ValueError(
                f"`{key}: {value}` gives `{name}` an adapter, and its weight is also that of `{other}` (the model's "
                "`tie_word_embeddings`). Prediction and export merge it into both, which is not the model that was "
                f"trained. Leave `{name.rpartition('.')[2]}` out, name it in `additional_target`, or train without an "
                "adapter (`finetuning_type: full` or `freeze`)."
            )


def _with_shared_weights(model_args: Any) -> tuple[nn.Module | None, dict[str, str]]:
    """The model without its weights, and its modules that share a weight: name -> the other one's name."""
    from llamafactory.model import load_config
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
    from transformers import AutoModelForTextToWaveform as Waveform

    config = load_config(SimpleNamespace(**vars(model_args)))  # stock changes its arguments
    if not any(getattr(each, "tie_word_embeddings", False) for each in (config, text_config(config))):
        return None, {}
    kinds = (AutoModelForImageTextToText, AutoModelForSeq2SeqLM, Waveform)
    kind = next((each for each in kinds if type(config) in each._model_mapping), AutoModelForCausalLM)
    with torch.device("meta"):
        model = kind.from_config(config, trust_remote_code=model_args.trust_remote_code)
    model.tie_weights()  # transformers 5.0 does not on this device
    owners = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].append(name)
    groups = [names for names in owners.values() if len(names) > 1]
    return model, {name: next(each for each in names if each != name) for names in groups for name in names}
