# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Binds a rope variant to one Qwen2-VL or Qwen2.5-VL instance, and takes it off again.

``get_rope_index`` is set on the instance's inner model, where transformers' forward and ``generate``, and
LLaMA-Factory's collator, all ask for positions. It is a bound method, so ``copy.deepcopy`` rebinds it to the copy, and
``del`` brings the class's own back. The classes are never touched: a teacher beside the student keeps its positions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLModel, Qwen2VLModel

from ..utils.models import unwrap_adapters
from ..utils.patching import bind_method
from . import mcg as positions
from .mixed import add_mixed, remove_mixed


VARIANTS = ("mrope", "mcg", "mcg_released", "rope_2d", "rope_mixed")

ACCEPTED = (Qwen2VLModel, Qwen2_5_VLModel)

BOUND = (
    "clinkd_rope",
    "get_rope_index",
    "_prepare_position_ids_for_generation",
    "_update_model_kwargs_for_generation",
)


def apply_rope(
    model: nn.Module,
    variant: str,
    *,
    alpha_h: int = 1,
    alpha_w: int = 1,
    gap: int = 2,
    sections: list[int] | None = None,
) -> nn.Module:
    """Gives a model the positions of ``variant``, in place; the same call again changes nothing, another replaces it.

    Args:
        model: A Qwen2-VL or Qwen2.5-VL model, bare or inside a PEFT wrapper.
        variant: ``mrope`` (stock; recorded only, but for token types that a caller of ``generate`` leaves out),
            ``mcg`` (Eq. 1-6), ``mcg_released`` (the authors' code), ``rope_2d`` (Eq. 7-11) or ``rope_mixed`` (stock
            positions, learnable frequencies in the vision tower; Qwen2-VL only).
        alpha_h: Interval between image rows, ``mcg`` only.
        alpha_w: Interval between image columns, ``mcg`` only.
        gap: Distance at a text/image boundary, ``mcg_released`` only.
        sections: Rotary frequencies for time, height and width, together head_dim / 2; None for the model's own.

    Returns:
        ``model``.

    Raises:
        TypeError: If the model is of another architecture; the message names it and the accepted ones.
        ValueError: If an argument is out of range, or has no effect on this variant.
    """
    inner = inner_model(model)
    settings = _checked_settings(variant, alpha_h, alpha_w, gap, sections)
    if rope_settings(model) == settings:
        return model

    remove_rope(model)
    if sections is not None:
        add_sections(inner, sections)
    if variant == "rope_mixed":
        add_mixed(inner)
    elif variant != "mrope":
        bind_method(inner, "get_rope_index", get_rope_index)
    for generator in _generators(model, inner):
        bind_method(generator, "_prepare_position_ids_for_generation", _with_token_types)
        if "get_rope_index" in vars(inner):
            bind_method(generator, "_update_model_kwargs_for_generation", _continue_after_image)
    inner.clinkd_rope = settings
    inner.rope_deltas = None  # of an earlier generation, by the old positions
    return model


def remove_rope(model: nn.Module) -> nn.Module:
    """Undoes :func:`apply_rope`, in place, dropping learned frequencies; a stock model stays as it is.

    Raises:
        TypeError: If the model is of an architecture that cannot have been changed.
    """
    inner = inner_model(model)
    if rope_settings(model) is None:
        return model

    for module in (inner, *_generators(model, inner)):
        for name in BOUND:
            if name in vars(module):
                delattr(module, name)
    inner.rope_deltas = None
    remove_sections(inner)
    remove_mixed(inner)
    return model


def rope_settings(model: nn.Module) -> dict[str, Any] | None:
    """What is bound, as arguments of :func:`apply_rope` (``variant`` included), or None for an untouched model."""
    settings = getattr(inner_model(model), "clinkd_rope", None)
    return None if settings is None else dict(settings)


def inner_model(model: nn.Module) -> nn.Module:
    """The one Qwen2-VL or Qwen2.5-VL model in ``model`` that computes positions, behind any wrapper.

    Raises:
        TypeError: If there is none.
    """
    for module in model.modules():
        if isinstance(module, ACCEPTED):
            return module
    core = unwrap_adapters(model)
    kind = getattr(getattr(core, "config", None), "model_type", "no model_type")
    raise TypeError(
        f"Rotary positions can be set on {' and '.join(c.__name__ for c in ACCEPTED)} (model types qwen2_vl and "
        f"qwen2_5_vl), found {type(core).__name__} ({kind}). Use such a model, or leave `use_clinkd` off."
    )


def get_rope_index(
    self: nn.Module,
    input_ids: Tensor | None = None,
    mm_token_type_ids: Tensor | None = None,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
    second_per_grid_ts: Tensor | None = None,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Takes the place of stock's method of this name, with its signature; ``self`` is the inner model.

    Returns:
        Positions int64 ``[3, B, L]`` and deltas int64 ``[B, 1]``, see :mod:`.positions`.

    Raises:
        ValueError: If the token types disagree with the grids or the mask.
    """
    if mm_token_type_ids is None:
        mm_token_type_ids = token_types(self, input_ids)
    vision = self.config.vision_config
    intervals = None
    if video_grid_thw is not None and hasattr(vision, "tokens_per_second"):  # Qwen2.5-VL: a video's time is absolute
        seconds = [1] * len(video_grid_thw) if second_per_grid_ts is None else second_per_grid_ts
        intervals = vision.tokens_per_second * torch.as_tensor(seconds).long()

    settings = self.clinkd_rope
    keys = {"mcg": ("alpha_h", "alpha_w"), "mcg_released": ("gap",), "rope_2d": ()}[settings["variant"]]
    return getattr(positions, settings["variant"])(
        mm_token_type_ids,
        image_grid_thw=image_grid_thw,
        video_grid_thw=video_grid_thw,
        attention_mask=attention_mask,
        merge_size=vision.spatial_merge_size,
        video_intervals=intervals,
        **{key: settings[key] for key in keys},
    )


def token_types(model: nn.Module, input_ids: Tensor) -> Tensor:
    """The processor's ``mm_token_type_ids``: int64 of the shape of ``input_ids``, 0 text, 1 image, 2 video."""
    config = model.config
    return (input_ids == config.image_token_id).long() + 2 * (input_ids == config.video_token_id).long()


def _with_token_types(self: nn.Module, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
    """Stock's first step of ``generate``, right also for a caller that passes images and no token types.

    Without them stock (transformers 5.6) gives image tokens text positions and says nothing; LLaMA-Factory 0.9.5's
    chat and API call it so.
    """
    ids = model_kwargs.get("input_ids", inputs_tensor)
    ids = inputs_tensor if ids.shape[-1] == 0 else ids
    if model_kwargs.get("mm_token_type_ids") is None and ids.dim() == 2 and not ids.is_floating_point():
        model_kwargs["mm_token_type_ids"] = token_types(self, ids)
    return type(self)._prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs)


def _continue_after_image(self: nn.Module, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any):
    """Stock's step of ``generate``, right also for a prompt that ends with an image.

    Stock adds 1 to the position of the last token on each axis. After text that is the next text position; after an
    image it is not, so there the positions are computed anew.
    """
    model_kwargs = type(self)._update_model_kwargs_for_generation(self, outputs, model_kwargs, *args, **kwargs)
    types, ids = model_kwargs.get("mm_token_type_ids"), model_kwargs.get("position_ids")
    new = kwargs.get("num_new_tokens", 1)
    if types is not None and ids is not None and ids.dim() == 3 and bool(types[:, -new - 1].any()):
        found, _ = self.model.get_rope_index(**{k: v for k, v in model_kwargs.items() if k != "position_ids"})
        model_kwargs["position_ids"] = torch.cat((ids[..., :-new], ids[..., -new:].clone()), -1)
        model_kwargs["position_ids"][-3:, :, -new:] = found[..., -new:]
    return model_kwargs


def _generators(model: nn.Module, inner: nn.Module) -> list[nn.Module]:
    """The modules whose ``generate`` runs ``inner``: one, or none for a bare inner model."""
    return [m for m in model.modules() if vars(m)["_modules"].get("model") is inner and hasattr(m, "generate")]


def _checked_settings(
    variant: str, alpha_h: int, alpha_w: int, gap: int, sections: list[int] | None
) -> dict[str, Any]:
    """The arguments of :func:`apply_rope` as a dict, checked."""
    if variant not in VARIANTS:
        raise ValueError(f"The rope variant must be one of {', '.join(VARIANTS)}, found {variant!r}.")
    for name, value, default, owner in (
        ("alpha_h", alpha_h, 1, "mcg"),
        ("alpha_w", alpha_w, 1, "mcg"),
        ("gap", gap, 2, "mcg_released"),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1 (a position is an integer), found {value!r}.")
        if value != default and variant != owner:
            raise ValueError(
                f"{name}={value} belongs to {owner} and has no effect on {variant}: leave it at {default}."
            )
    sections = None if sections is None else list(sections)
    return {"variant": variant, "alpha_h": alpha_h, "alpha_w": alpha_w, "gap": gap, "sections": sections}


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
