# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Applies a rope variant to one Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5 instance, and removes it.

``get_rope_index`` is bound on the instance's inner model, where transformers and LLaMA-Factory's collator look it up
(``copy.deepcopy`` rebinds it to the copy). No class is patched: a teacher beside the student keeps its own positions.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.models import unwrap_adapters
from ..utils.patching import bind_method
from . import mcg
from .mcg import OPTION_DEFAULTS, VARIANTS
from .mixed import add_mixed, remove_mixed


SUPPORTED = {  # class in transformers -> its model type
    "Qwen2VLModel": "qwen2_vl",
    "Qwen2_5_VLModel": "qwen2_5_vl",
    "Qwen3VLModel": "qwen3_vl",
    "Qwen3VLMoeModel": "qwen3_vl_moe",
    "Qwen3_5Model": "qwen3_5",
    "Qwen3_5MoeModel": "qwen3_5_moe",
}
FRAME_BY_FRAME = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
"""Model types that write a timestamp as text before each frame of a video: every frame is an item of its own."""
_PREPARE = "_prepare_position_ids_for_generation"  # the first step of `generate`
_UPDATE = "_update_model_kwargs_for_generation"
_INTERLEAVE = "apply_interleaved_mrope"


def apply_rope(
    model: nn.Module,
    variant: str,
    *,
    alpha_h: int = 1,
    alpha_w: int = 1,
    gap: int = 2,
    sections: list[int] | None = None,
) -> nn.Module:
    """Gives a model the positions of ``variant`` in place and returns it; another call replaces them.

    Args:
        model: A model of :data:`SUPPORTED`, bare or inside a PEFT wrapper.
        variant: ``mrope`` (stock positions, also for a ``generate`` call without token types), ``mcg`` (Eq. 1-6),
            ``mcg_released`` (the authors' code), ``rope_2d`` (Eq. 7-11) or ``rope_mixed`` (stock positions, learnable
            frequencies in the vision tower).
        alpha_h: Interval between image rows, ``mcg`` only.
        alpha_w: Interval between image columns, ``mcg`` only.
        gap: Distance at a text/image boundary, ``mcg_released`` only.
        sections: Rotary frequencies for time, height and width, together head_dim / 2; None for the model's own.

    Raises:
        TypeError: If the model is of another architecture.
        ValueError: If an argument is out of range, or has no effect on this variant.
    """
    inner = inner_model(model)
    settings = _checked_settings(variant, {"alpha_h": alpha_h, "alpha_w": alpha_w, "gap": gap}, sections)
    if rope_settings(model) == settings:
        return model
    remove_rope(model)
    if sections is not None:
        _add_sections(inner, sections)
    if variant == "rope_mixed":
        add_mixed(inner)
    elif variant != "mrope":
        old = "mm_token_type_ids" not in inspect.signature(type(inner).get_rope_index).parameters
        bind_method(inner, "get_rope_index", get_rope_index_by_tokens if old else get_rope_index)
    for generating in _generating_modules(model, inner):
        if _PREPARE in vars(type(generating)):  # not in transformers 5.0 and 5.1, which read the tokens
            bind_method(generating, _PREPARE, _prepare_with_token_types)
        if "get_rope_index" in vars(inner):
            bind_method(generating, _UPDATE, _continue_after_image)
    inner.clinkd_rope = settings
    inner.rope_deltas = None  # stale: computed with the old positions
    return model


def remove_rope(model: nn.Module) -> nn.Module:
    """Undoes :func:`apply_rope`, in place, and drops learned frequencies; a stock model is left unchanged.

    Raises:
        TypeError: If the model is of an architecture that :func:`apply_rope` does not support.
    """
    inner = inner_model(model)
    if rope_settings(model) is None:
        return model
    for module in (inner, *_generating_modules(model, inner)):
        for name in ("clinkd_rope", "get_rope_index", _PREPARE, _UPDATE):
            if name in vars(module):
                delattr(module, name)
    inner.rope_deltas = None
    rotary = inner.language_model.rotary_emb
    if "clinkd_handle" in vars(rotary):
        rotary.clinkd_handle.remove()
    for name in ("clinkd_handle", "clinkd_sections", _INTERLEAVE):
        vars(rotary).pop(name, None)
    remove_mixed(inner)
    return model


def rope_settings(model: nn.Module) -> dict[str, Any] | None:
    """The arguments of the last :func:`apply_rope` (``variant`` included), or None for a stock model."""
    settings = getattr(inner_model(model), "clinkd_rope", None)
    return None if settings is None else dict(settings)


def inner_model(model: nn.Module) -> nn.Module:
    """The module in ``model`` that computes positions, one of :data:`SUPPORTED`; a TypeError if there is none."""
    for module in model.modules():
        if is_supported(module):
            return module
    core = unwrap_adapters(model)
    model_type = getattr(getattr(core, "config", None), "model_type", "no model_type")
    raise TypeError(
        f"Rotary positions can be set on {', '.join(SUPPORTED)} (model types {', '.join(SUPPORTED.values())}), found "
        f"{type(core).__name__} ({model_type}). Use such a model, or set `rope_variant: mrope`."
    )


def is_supported(module: nn.Module) -> bool:
    """Whether this is transformers' own class, or one made from it, that computes positions as MCG-RoPE needs."""
    classes = (base for base in type(module).__mro__ if base.__module__.startswith("transformers.models."))
    return any(base.__name__ in SUPPORTED for base in classes)


def token_types(config: Any, input_ids: Tensor) -> Tensor:
    """``mm_token_type_ids`` int64 ``[B, L]`` as transformers' processors compute them: 0 text, 1 image, 2 video."""
    types = torch.zeros_like(input_ids)
    for value, name in ((1, "image_token_id"), (2, "video_token_id")):
        if getattr(config, name, None) is not None:
            types[input_ids == getattr(config, name)] = value
    return types


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
    """Replaces transformers' method of this name; returns positions and deltas, see :mod:`.mcg`."""
    if mm_token_type_ids is None:
        mm_token_type_ids = token_types(self.config, input_ids)
    vision = self.config.vision_config
    intervals = None
    if video_grid_thw is not None and hasattr(vision, "tokens_per_second"):  # Qwen2.5-VL: a video's time is absolute
        seconds = [1] * len(video_grid_thw) if second_per_grid_ts is None else second_per_grid_ts
        intervals = vision.tokens_per_second * torch.as_tensor(seconds).long()
    if video_grid_thw is not None and self.config.model_type in FRAME_BY_FRAME:
        video_grid_thw = torch.repeat_interleave(video_grid_thw, video_grid_thw[:, 0], dim=0)
        video_grid_thw[:, 0] = 1

    variant = self.clinkd_rope["variant"]
    return getattr(mcg, variant)(
        mm_token_type_ids,
        image_grid_thw=image_grid_thw,
        video_grid_thw=video_grid_thw,
        attention_mask=attention_mask,
        merge_size=vision.spatial_merge_size,
        video_intervals=intervals,
        **{option: self.clinkd_rope[option] for option in VARIANTS[variant]},
    )


def get_rope_index_by_tokens(self: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """As :func:`get_rope_index`, called as transformers 5.0 to 5.2 calls its own method.

    There are no token types, and the order of the parameters is the class's. In 5.0 and 5.1 a delta counts from the
    padded length.
    """
    names = list(inspect.signature(type(self).get_rope_index).parameters)[1:]
    kwargs |= dict(zip(names, args, strict=False))
    positions, deltas = get_rope_index(self, **kwargs)
    mask = kwargs.get("attention_mask")
    if mask is not None and not hasattr(type(self), "compute_3d_position_ids"):
        deltas = deltas + mask.long().sum(1, keepdim=True) - mask.shape[1]
    return positions, deltas


def _prepare_with_token_types(self: nn.Module, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
    """First step of ``generate``, also for callers without token types (LLaMA-Factory 0.9.5's chat and API).

    Without token types, transformers 5.3 to 5.8 silently gives image tokens text positions.
    """
    ids = model_kwargs.get("input_ids", inputs_tensor)
    ids = inputs_tensor if ids.shape[-1] == 0 else ids
    if model_kwargs.get("mm_token_type_ids") is None and ids.dim() == 2 and not ids.is_floating_point():
        model_kwargs["mm_token_type_ids"] = token_types(self.config, ids)
    return type(self)._prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs)


def _continue_after_image(self: nn.Module, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any):
    """Update step of ``generate``; transformers adds 1 to each axis, which is wrong after an image at the end."""
    model_kwargs = type(self)._update_model_kwargs_for_generation(self, outputs, model_kwargs, *args, **kwargs)
    types, ids = model_kwargs.get("mm_token_type_ids"), model_kwargs.get("position_ids")
    mask, new = model_kwargs.get("attention_mask"), kwargs.get("num_new_tokens", 1)
    if types is not None and mask is not None:  # transformers 5.2 leaves the types at the prompt's length
        types = nn.functional.pad(types, (0, mask.shape[1] - types.shape[1]))
        model_kwargs["mm_token_type_ids"] = types
    if types is not None and ids is not None and ids.dim() == 3 and bool(types[:, -new - 1].any()):
        positions, _ = self.model.get_rope_index(**{k: v for k, v in model_kwargs.items() if k != "position_ids"})
        model_kwargs["position_ids"] = ids.clone()
        model_kwargs["position_ids"][-3:, :, -new:] = positions[..., -new:]
    return model_kwargs


def _generating_modules(model: nn.Module, inner: nn.Module) -> list[nn.Module]:
    """The modules whose ``generate`` runs ``inner``: one, or none for a bare inner model."""
    return [m for m in model.modules() if vars(m)["_modules"].get("model") is inner and hasattr(m, "generate")]


def _checked_settings(variant: str, options: dict[str, int], sections: list[int] | None) -> dict[str, Any]:
    """The arguments of :func:`apply_rope` as a dict, checked."""
    if variant not in VARIANTS:
        raise ValueError(f"The rope variant must be one of {', '.join(VARIANTS)}, found {variant!r}.")
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1 (a position is an integer), found {value!r}.")
        default = OPTION_DEFAULTS[name]
        if value != default and name not in VARIANTS[variant]:
            owner = next(other for other, names in VARIANTS.items() if name in names)
            raise ValueError(
                f"{name}={value} belongs to {owner} and has no effect on {variant}: leave it at {default}."
            )
    return {"variant": variant, **options, "sections": None if sections is None else list(sections)}


def _add_sections(inner: nn.Module, sections: list[int]) -> None:
    """Splits the rotary frequencies anew: integers >= 0 for time, height and width that sum to head_dim / 2."""
    rotary = inner.language_model.rotary_emb
    half = rotary.inv_freq.shape[0]
    if len(sections) != 3 or any(not isinstance(n, int) or n < 0 for n in sections) or sum(sections) != half:
        own = inner.language_model.config.rope_parameters.get("mrope_section") or rotary.mrope_section
        raise ValueError(
            f"rope sections must be three integers >= 0 (time, height, width) that sum to half the rotary dimension = "
            f"{half}, found {list(sections)}, which sum to {sum(sections)}. The model's own are {own}."
        )
    rotary.clinkd_sections = list(sections)
    if hasattr(rotary, _INTERLEAVE):  # Qwen3-VL and Qwen3.5
        bind_method(rotary, _INTERLEAVE, _interleave_axes)
    else:
        rotary.clinkd_handle = rotary.register_forward_hook(_select_axes)


def _interleave_axes(rotary: nn.Module, freqs: Tensor, mrope_section: list[int]) -> Tensor:
    """Angles ``[B, L, half]`` out of those of each axis ``[3, B, L, half]``: the axes take turns (T, H, W, T, ...).

    An axis drops out when it has its number of frequencies. Where the numbers are stock's, so is the order.
    """
    left, order = list(rotary.clinkd_sections), []
    while any(left):
        turn = [axis for axis in range(3) if left[axis]]
        order += turn
        left = [number - (axis in turn) for axis, number in enumerate(left)]
    index = torch.tensor(order, device=freqs.device).expand(1, *freqs.shape[1:])
    return freqs.gather(0, index)[0]


def _select_axes(rotary: nn.Module, args: tuple, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(cos, sin), each ``[3, B, L, head_dim]``, with the axis of each frequency copied over the other two."""
    axis = torch.tensor([0, 1, 2], device=output[0].device)
    axis = axis.repeat_interleave(torch.tensor(rotary.clinkd_sections, device=axis.device)).repeat(2)
    index = axis.expand(1, *output[0].shape[1:])
    return tuple(tensor.gather(0, index).expand_as(tensor) for tensor in output)
