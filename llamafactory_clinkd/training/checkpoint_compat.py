# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Loads a checkpoint whose weights have other names than the trainer's model.

transformers 5.0-5.6 saves Qwen2-VL's weights under their old names (``visual.blocks...``), which ``from_pretrained``
maps back. ``Trainer`` resumes, and loads its best model, by ``load_state_dict(strict=False)`` without the mapping: no
weight is loaded, and training continues from the base weights with a warning. Remove this module when it maps too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from ..utils.patching import patch_instance


@contextmanager
def accepts_saved_names(model: nn.Module) -> Iterator[None]:
    """Inside, ``model.load_state_dict`` accepts a file's names too; at the end, what was loaded must be complete.

    Raises:
        ValueError: If weights were loaded (not with adapters, DeepSpeed, FSDP) and some are missing.
    """
    if not isinstance(model, PreTrainedModel):  # PEFT loads adapters only, by itself
        yield
        return

    own, loaded = model.state_dict(), set()
    stock = model.load_state_dict

    def load_state_dict(state_dict: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        if not state_dict.keys() <= own.keys():  # renamed as `from_pretrained` does for this class
            renamings = [each for each in get_model_conversion_mapping(model) if isinstance(each, WeightRenaming)]
            state_dict = {rename_source_key(key, renamings, [])[0]: tensor for key, tensor in state_dict.items()}
        loaded.update(state_dict)
        return stock(state_dict, *args, **kwargs)

    with patch_instance(model, "load_state_dict", load_state_dict):
        yield
    pointers = {own[name].data_ptr() for name in loaded & own.keys()}  # tied weights are saved once
    missing = [name for name, tensor in own.items() if name not in loaded and tensor.data_ptr() not in pointers]
    if loaded and missing:
        raise ValueError(
            f"The checkpoint lacks {len(missing)} of the model's {len(own)} weights, among them {missing[:3]}: it is "
            "of another model, or of another version of transformers. Start from it as `model_name_or_path` instead."
        )
