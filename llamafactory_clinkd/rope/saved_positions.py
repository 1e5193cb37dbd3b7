# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which rotary positions a model has in a run, and that nothing serves it with others.

The keys that a recipe writes and the ``clinkd_config.json`` beside a saved model must agree; a model that was saved
with its own positions gets them without a key, for training, prediction, chat, API and export alike.
"""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ..utils.patching import bind_method
from ..utils.value_checks import split_list
from . import apply_rope, read_mixed, write_mixed
from .binding import inner_model
from .config import FILE, read_rope_config, reconcile, write_rope_config
from .mixed import FILE as MIXED_FILE


logger = logging.getLogger(__name__)

SETTING_OF_KEY = {
    "rope_variant": "variant",
    "mcg_alpha_h": "alpha_h",
    "mcg_alpha_w": "alpha_w",
    "mcg_gap": "gap",
    "rope_sections": "sections",
    "image_square": "image_square",
}
"""Recipe key -> its name in ``clinkd_config.json``."""
KEY_OF_SETTING = {setting: key for key, setting in SETTING_OF_KEY.items()}


def requested_settings(arguments: Any) -> dict[str, Any] | None:
    """The positions of a recipe with ``use_clinkd: true``, defaults included; ``None`` without it."""
    if not getattr(arguments, "use_clinkd", False):
        return None
    return {setting: getattr(arguments, key) for key, setting in SETTING_OF_KEY.items()}


def saved_settings(model_args: Any) -> dict[str, Any] | None:
    """The positions saved beside the last adapter, else beside the model; ``None`` where neither has any."""
    for folder in reversed(_folders_with(FILE, model_args)):
        settings = read_rope_config(folder)
        if settings is not None:
            return settings
    return None


def _folders_with(file: str, model_args: Any) -> list[Path]:
    """The folders with ``file`` that a model is loaded from: its own, then its adapters'; hub names by their cache."""
    names = [model_args.model_name_or_path, *split_list(model_args.adapter_name_or_path or [])]
    found = (_find(name, file, model_args) for name in names if name)
    return [path.parent for path in found if path is not None]


def _find(name: str, file: str, model_args: Any) -> Path | None:
    """A file beside a saved model, fetched where the model is one of the hub; ``None`` where there is none."""
    if Path(name).is_dir():
        path = Path(name, file)
        return path if path.is_file() else None
    try:
        path = cached_file(
            name,
            file,
            cache_dir=getattr(model_args, "cache_dir", None),
            revision=getattr(model_args, "model_revision", None),
            token=getattr(model_args, "hf_hub_token", None),
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:  # neither a folder nor a model of the hub: stock's own error when it loads the name says more
        return None
    return None if path is None else Path(path)


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

    Raises:
        ValueError: If a ``teacher_rope_variant`` that the recipe asks for differs from the saved one.
    """
    saved, variant = saved_settings(arguments), finetuning_args.teacher_rope_variant
    if saved is not None:
        asked = {"variant": variant} if finetuning_args.asks_for("teacher_rope_variant") else {}
        return reconcile(saved, asked, model="The teacher", recipe_keys={"variant": "teacher_rope_variant"})
    return None if variant == "mrope" else {"variant": variant}


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
    """Saved and requested positions, reconciled: a key that the recipe does not write takes the saved value.

    Raises:
        ValueError: If a key that the recipe writes disagrees with what the model was saved with.
    """
    saved, requested = saved_settings(model_args), requested_settings(finetuning_args)
    if saved is None or requested is None:
        return requested if saved is None else saved
    asked = {setting: requested[setting] for key, setting in SETTING_OF_KEY.items() if finetuning_args.asks_for(key)}
    return {**requested, **reconcile(saved, asked, recipe_keys=KEY_OF_SETTING)}


def with_saved_positions(model_args: Any, finetuning_args: Any) -> Any:
    """A copy of the recipe's keys in which the model's saved positions stand for those that are not written.

    Raises:
        ValueError: As :func:`settings_of_run`.
    """
    settings = settings_of_run(model_args, finetuning_args)
    resolved = copy.copy(finetuning_args)
    for key, setting in SETTING_OF_KEY.items():
        setattr(resolved, key, settings[setting])
    return resolved


def apply_saved_positions(model: Any, model_args: Any, finetuning_args: Any) -> Any:
    """Applies the run's positions to a loaded model, and makes every later save and resume of it carry them."""
    settings = settings_of_run(model_args, finetuning_args)
    if settings is None:
        return model

    bind_settings(model, settings)
    if settings["variant"] == "rope_mixed":
        for folder in _folders_with(MIXED_FILE, model_args):
            read_mixed(folder, model)
    bind_method(model, "save_pretrained", _saving(model.save_pretrained, settings))
    if hasattr(model, "load_adapter") and hasattr(model, "peft_config"):
        bind_method(model, "load_adapter", _loading(model.load_adapter, settings))
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
