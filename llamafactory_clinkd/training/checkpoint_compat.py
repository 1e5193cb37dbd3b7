# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Loads a checkpoint whose weights have other names than the trainer's model.

``save_pretrained`` of transformers 5.0-5.6 writes Qwen2-VL's weights under their old names (``visual.blocks...``),
which ``from_pretrained`` maps back. ``Trainer`` resumes, and loads its best model, with the file's names and
``load_state_dict(strict=False)``: no weight is loaded, and training continues from the base weights with a warning.
Remove this module when ``Trainer`` renames too.
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
    """Inside, ``model.load_state_dict`` accepts a file's names too; at the end, the loaded weights must be complete.

    Nothing is checked where nothing was loaded that way (adapters, DeepSpeed, FSDP).

    Raises:
        ValueError: If weights are missing from all that was loaded inside; the message names some.
    """
    if not isinstance(model, PreTrainedModel):  # PEFT loads adapters only, by itself
        yield
        return

    own, loaded = model.state_dict(), set()
    stock = model.load_state_dict

    def load_state_dict(state_dict: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        renamed = _renamed(model, state_dict, own)
        loaded.update(renamed)
        return stock(renamed, *args, **kwargs)

    with patch_instance(model, "load_state_dict", load_state_dict):
        yield
    pointers = {own[name].data_ptr() for name in loaded & own.keys()}  # tied weights are saved once
    missing = [name for name, tensor in own.items() if name not in loaded and tensor.data_ptr() not in pointers]
    if loaded and missing:
        raise ValueError(
            f"The checkpoint lacks {len(missing)} of the model's {len(own)} weights, among them {missing[:3]}: it is "
            "of another model, or of another version of transformers. Start from it as `model_name_or_path` instead."
        )


def _renamed(model: nn.Module, state_dict: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state_dict`` under the names of ``own``, by the renamings that ``from_pretrained`` applies to this class."""
    if state_dict.keys() <= own.keys():
        return state_dict
    renamings = [each for each in get_model_conversion_mapping(model) if isinstance(each, WeightRenaming)]
    return {rename_source_key(name, renamings, [])[0]: tensor for name, tensor in state_dict.items()}
