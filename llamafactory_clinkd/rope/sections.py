# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Re-splits the rotary frequencies of one Qwen2-VL instance among time, height and width.

The paper splits a head into d_h + d_w (section 3.1, "Distinct Interval-Based Rotation"); Qwen2-VL keeps a part for
time. transformers reads the split from the text config at every call, and models built from one config object share
it. So the config stays as it is: a hook on the instance's rotary embedding picks each frequency's axis, and hands the
attention three equal axes to pick from.
"""

import torch
from torch import Tensor, nn


def add_sections(inner: nn.Module, sections: list[int]) -> None:
    """Makes ``sections`` the split of an inner Qwen2-VL model.

    Args:
        inner: The model that has ``language_model.rotary_emb``.
        sections: Frequencies for time, height and width, integers >= 0 that sum to head_dim / 2.

    Raises:
        ValueError: If they do not.
    """
    rotary = inner.language_model.rotary_emb
    half = rotary.inv_freq.shape[0]
    if len(sections) != 3 or any(not isinstance(n, int) or n < 0 for n in sections) or sum(sections) != half:
        own = inner.language_model.config.rope_parameters["mrope_section"]
        raise ValueError(
            f"rope sections must be three integers >= 0 (time, height, width) that sum to head_dim / 2 = {half}, "
            f"found {list(sections)}, which sum to {sum(sections)}. The model's own are {own}."
        )
    rotary.clinkd_sections = list(sections)
    rotary.clinkd_handle = rotary.register_forward_hook(_pick_axes)


def remove_sections(inner: nn.Module) -> None:
    """Brings the model's own split back; a model without :func:`add_sections` stays as it is."""
    rotary = inner.language_model.rotary_emb
    if "clinkd_handle" in vars(rotary):
        rotary.clinkd_handle.remove()
        del rotary.clinkd_handle, rotary.clinkd_sections


def _pick_axes(rotary: nn.Module, args: tuple, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(cos, sin), each ``[3, B, L, head_dim]``, with each frequency's own axis copied over the other two."""
    axis = torch.tensor([0, 1, 2], device=output[0].device)
    axis = axis.repeat_interleave(torch.tensor(rotary.clinkd_sections, device=axis.device)).repeat(2)
    index = axis.expand(1, *output[0].shape[1:])
    return tuple(part.gather(0, index).expand_as(part) for part in output)
