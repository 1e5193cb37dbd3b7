# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Which rotary positions a model has in a run, and that nothing serves it with others.

The recipe's keys and the ``clinkd_config.json`` beside a saved model must agree; a model that was saved with its own
positions gets them without a key, for training, prediction, chat, API and export alike.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

from .rope import apply_rope, read_mixed, write_mixed
from .rope.config import read_rope_config, reconcile, write_rope_config
from .rope.qwen2_vl import inner_model


logger = logging.getLogger(__name__)


def requested_settings(arguments: Any) -> dict[str, Any] | None:
    """The positions that a recipe with ``use_clinkd: true`` asks for, ``None`` without it."""
    if not getattr(arguments, "use_clinkd", False):
        return None
    return {
        "variant": arguments.rope_variant,
        "alpha_h": arguments.mcg_alpha_h,
        "alpha_w": arguments.mcg_alpha_w,
        "gap": arguments.mcg_gap,
        "sections": arguments.rope_sections,
        "image_square": arguments.image_square,
    }


def saved_settings(model_args: Any) -> dict[str, Any] | None:
    """The positions saved beside the last adapter, else beside the model; ``None`` where neither has any."""
    for folder in reversed(_folders(model_args)):
        settings = read_rope_config(folder)
        if settings is not None:
            return settings
    return None


def _folders(model_args: Any) -> list[Path]:
    """The local folders that a model is loaded from: its own, then its adapters'."""
    adapters = model_args.adapter_name_or_path or []
    adapters = [adapters] if isinstance(adapters, str) else list(adapters)
    folders = [Path(name) for name in [model_args.model_name_or_path, *adapters] if name]
    return [folder for folder in folders if folder.is_dir()]


def _computes_image_positions(model: Any) -> bool:
    try:
        inner_model(model)
    except TypeError:
        return False
    return True


def is_stock(settings: dict[str, Any] | None) -> bool:
    """Whether these are the positions that the architecture has by itself."""
    return settings is None or (settings["variant"] == "mrope" and not settings.get("sections"))


def same_positions(a: dict[str, Any] | None, b: dict[str, Any] | None) -> bool:
    """Whether two models with these settings give every token the same ``position_ids``."""
    return _placing(a) == _placing(b)


def _placing(settings: dict[str, Any] | None) -> tuple[Any, ...] | None:
    """What decides on ``position_ids``; ``None`` for stock's, which ``rope_mixed`` keeps in the language model."""
    if settings is None or settings["variant"] in ("mrope", "rope_mixed"):
        return None
    defaults = {"alpha_h": 1, "alpha_w": 1, "gap": 2}
    return settings["variant"], *(settings.get(key, default) for key, default in defaults.items())


def teacher_settings(arguments: Any, finetuning_args: Any) -> dict[str, Any] | None:
    """The teacher's positions: those saved beside it, else ``teacher_rope_variant``.

    Args:
        arguments: ``ModelArguments`` that load the teacher.
        finetuning_args: The recipe's ClinKD keys.
    """
    saved = saved_settings(arguments)
    if saved is not None or finetuning_args.teacher_rope_variant == "mrope":
        return saved
    return {"variant": finetuning_args.teacher_rope_variant}


def bind_settings(model: Any, settings: dict[str, Any] | None) -> Any:
    """Gives ``model`` the positions of ``settings`` (``image_square`` is the data path's).

    ``None`` leaves it stock. ``mrope`` is applied where it can be: stock's chat engine gives transformers 5.6 no
    ``mm_token_type_ids``, without which image tokens silently get text positions; the bound function finds them.
    """
    if settings is None or (is_stock(settings) and not _computes_image_positions(model)):
        return model
    keys = ("alpha_h", "alpha_w", "gap", "sections")
    return apply_rope(model, settings["variant"], **{key: settings[key] for key in keys if key in settings})


def settings_of_run(model_args: Any, finetuning_args: Any) -> dict[str, Any] | None:
    """Saved and requested positions, reconciled.

    Raises:
        ValueError: If a recipe's keys disagree with those that the model was saved with.
    """
    saved, requested = saved_settings(model_args), requested_settings(finetuning_args)
    return requested if saved is None else reconcile(saved, requested)


def apply_saved_positions(model: Any, model_args: Any, finetuning_args: Any) -> Any:
    """Applies the run's positions to a loaded model, and makes every later save and resume of it carry them."""
    settings = settings_of_run(model_args, finetuning_args)
    if settings is None:
        return model

    bind_settings(model, settings)
    if settings["variant"] == "rope_mixed":
        for folder in _folders(model_args):
            read_mixed(folder, model)
    model.save_pretrained = MethodType(_saving(model.save_pretrained, settings), model)
    if hasattr(model, "load_adapter") and hasattr(model, "peft_config"):
        model.load_adapter = MethodType(_loading(model.load_adapter, settings), model)
    logger.info("Rotary positions of this model: %s.", settings["variant"])
    return model


def _saving(stock: Any, settings: dict[str, Any]) -> Callable[..., Any]:
    """``save_pretrained`` that leaves ``clinkd_config.json`` and what ``rope_mixed`` learned beside the weights."""

    def save_pretrained(self: Any, save_directory: str, *args: Any, **kwargs: Any) -> Any:
        result = stock.__func__(self, save_directory, *args, **kwargs)
        write_rope_config(save_directory, settings)
        if settings["variant"] == "rope_mixed":
            write_mixed(save_directory, self, state_dict=kwargs.get("state_dict"))
        return result

    return save_pretrained


def _loading(stock: Any, settings: dict[str, Any]) -> Callable[..., Any]:
    """PEFT's ``load_adapter``, by which the trainer resumes; an adapter's own file holds no ``rope_mixed``."""

    def load_adapter(self: Any, model_id: str, *args: Any, **kwargs: Any) -> Any:
        result = stock.__func__(self, model_id, *args, **kwargs)
        if settings["variant"] == "rope_mixed":
            read_mixed(model_id, self)
        return result

    return load_adapter


def refuse_foreign_engine(model_args: Any, finetuning_args: Any) -> None:
    """Refuses vLLM and SGLang for a model with other positions or other images than stock's.

    Raises:
        ValueError: Both engines compute Qwen2-VL's positions themselves and would serve the model silently wrong; and
            they take images past the data path that makes them square.
    """
    backend = getattr(model_args.infer_backend, "value", model_args.infer_backend)
    if backend in ("huggingface", "hf"):
        return
    settings = settings_of_run(model_args, finetuning_args)
    if not is_stock(settings):
        raise ValueError(
            f"`infer_backend: {backend}` computes rotary positions itself and would give this model stock M-RoPE, but "
            f"it was trained with `rope_variant: {settings['variant']}` and `rope_sections: "
            f"{settings.get('sections')}`: its answers would be silently wrong. Use `infer_backend: huggingface`."
        )
    if settings is not None and settings.get("image_square"):
        raise ValueError(
            f"`infer_backend: {backend}` would show this model images as they are, but it was trained with "
            "`image_square: true`. Use `infer_backend: huggingface`, or train with `image_square: false` and "
            "`rope_variant: mrope` to serve with this engine."
        )
