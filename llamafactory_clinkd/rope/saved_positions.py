# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The rotary positions of a run: those of the recipe, and those saved with a model in ``clinkd_config.json``.

A model that is served with other positions than those of its training silently gives wrong answers. So every saved
model has this file: a format number, the arguments of :func:`.binding.apply_rope`, and ``image_square`` of the data
path. Training, prediction, chat, API and export apply it without a key; a recipe that disagrees is an error.
"""

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ..utils.io import read_json, write_json
from ..utils.patching import bind_method
from ..utils.value_checks import split_list
from .binding import OPTION_DEFAULTS, apply_rope, inner_model
from .mixed import FILE as MIXED_FILE
from .mixed import read_mixed, write_mixed


logger = logging.getLogger(__name__)

CONFIG_FILE = "clinkd_config.json"
FORMAT = 1
RECIPE_KEYS = {
    "variant": "rope_variant",
    "alpha_h": "mcg_alpha_h",
    "alpha_w": "mcg_alpha_w",
    "gap": "mcg_gap",
    "sections": "rope_sections",
    "image_square": "image_square",
}
"""Setting in ``clinkd_config.json`` -> its key in a recipe."""


def write_rope_config(directory: str | Path, settings: dict[str, Any]) -> Path:
    """Writes ``settings`` to ``clinkd_config.json`` in ``directory``, atomically.

    Args:
        directory: Folder of the saved model or adapter; created if missing.
        settings: ``rope_settings(model)``, and ``image_square`` where it applies.

    Raises:
        ValueError: If a key is unknown or ``variant`` is missing.
    """
    path = Path(directory) / CONFIG_FILE
    _check_settings(settings, "The settings to save")
    write_json(path, {"format": FORMAT, **settings})
    return path


def read_rope_config(directory: str | Path) -> dict[str, Any] | None:
    """Reads the file of :func:`write_rope_config`, without the format number; None if there is no such file.

    Raises:
        ValueError: If the file is damaged, or of a format that this version does not know.
    """
    path = Path(directory) / CONFIG_FILE
    if not path.exists():
        return None
    saved = read_json(path)
    version = saved.get("format") if isinstance(saved, dict) else saved
    if not isinstance(saved, dict) or version != FORMAT:
        raise ValueError(
            f"{path} has the format {version!r}, this version of llamafactory-clinkd reads {FORMAT}. Install the "
            "version that wrote the file."
        )
    settings = {key: value for key, value in saved.items() if key != "format"}
    _check_settings(settings, str(path))
    return settings


def _check_settings(settings: dict[str, Any], source: str) -> None:
    if "variant" not in settings or not settings.keys() <= RECIPE_KEYS.keys():
        raise ValueError(
            f"{source}: keys must be {', '.join(RECIPE_KEYS)}, `variant` among them; found {list(settings)}."
        )


def reconcile(
    saved: dict[str, Any] | None,
    requested: dict[str, Any] | None,
    *,
    model: str = "The model",
    recipe_keys: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """Combines saved and requested settings, which must agree; a requested key that is None counts as left out.

    Args:
        saved: Settings from :func:`read_rope_config`.
        requested: Settings of the recipe.
        model: Whose settings they are, for the message.
        recipe_keys: A setting's name in the recipe, for the message.

    Raises:
        ValueError: If a requested setting differs from the saved one; the message shows both.
    """
    if saved is None or requested is None:
        return requested if saved is None else saved
    requested = {key: value for key, value in requested.items() if value is not None}
    different = [key for key, value in requested.items() if key in saved and saved[key] != value]
    if different:
        names = {key: (recipe_keys or {}).get(key, key) for key in different}
        rows = "; ".join(f"`{names[key]}: saved {saved[key]!r}, requested {requested[key]!r}`" for key in different)
        raise ValueError(
            f"{model} was saved with other positions than the recipe requests ({rows}). Saved: {saved}. Requested: "
            f"{requested}. Remove these keys from the recipe to use the saved values, or start from a model without "
            f"{CONFIG_FILE}."
        )
    return {**requested, **saved}


def is_stock(settings: dict[str, Any] | None) -> bool:
    """Whether these are the positions of the unmodified architecture."""
    return settings is None or (settings["variant"] == "mrope" and not settings.get("sections"))


def same_positions(a: dict[str, Any] | None, b: dict[str, Any] | None) -> bool:
    """Whether two models with these settings give every token the same ``position_ids``."""
    return _position_id_settings(a) == _position_id_settings(b)


def _position_id_settings(settings: dict[str, Any] | None) -> tuple[Any, ...] | None:
    """What ``position_ids`` depend on; None for stock's, which ``rope_mixed`` keeps in the language model."""
    if settings is None or settings["variant"] in ("mrope", "rope_mixed"):
        return None
    return settings["variant"], *(settings.get(key, default) for key, default in OPTION_DEFAULTS.items())


def saved_settings(model_args: Any) -> dict[str, Any] | None:
    """The positions saved with the last adapter, else with the model; None if neither has any."""
    for folder in reversed(_folders_with(CONFIG_FILE, model_args)):
        settings = read_rope_config(folder)
        if settings is not None:
            return settings
    return None


def _folders_with(file: str, model_args: Any) -> list[Path]:
    """The folders with ``file`` among those of the model and its adapters; of a hub model the folder in the cache."""
    names = [model_args.model_name_or_path, *split_list(model_args.adapter_name_or_path or [])]
    paths = (_find_file(name, file, model_args) for name in names if name)
    return [path.parent for path in paths if path is not None]


def _find_file(name: str, file: str, model_args: Any) -> Path | None:
    """A file of a saved model, downloaded for a hub model; None if it has no such file."""
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
    except OSError:  # neither a folder nor a hub model: loading the model raises a more precise error
        return None
    return None if path is None else Path(path)


def settings_of_run(model_args: Any, finetuning_args: Any) -> dict[str, Any] | None:
    """The saved settings, completed by the recipe's; None without either.

    Raises:
        ValueError: If a key that is written in the recipe disagrees with the saved value.
    """
    saved = saved_settings(model_args)
    if not getattr(finetuning_args, "use_clinkd", False):
        return saved
    requested = {setting: getattr(finetuning_args, key) for setting, key in RECIPE_KEYS.items()}
    written = {setting: requested[setting] for setting, key in RECIPE_KEYS.items() if finetuning_args.asks_for(key)}
    return {**requested, **reconcile(saved, written, recipe_keys=RECIPE_KEYS)}


def teacher_settings(model_args: Any, finetuning_args: Any) -> dict[str, Any] | None:
    """The positions of the teacher that ``model_args`` load: those saved with it, else ``teacher_rope_variant``.

    Raises:
        ValueError: If a ``teacher_rope_variant`` that is written in the recipe differs from the saved one.
    """
    saved, variant = saved_settings(model_args), finetuning_args.teacher_rope_variant
    if saved is not None:
        written = {"variant": variant} if finetuning_args.asks_for("teacher_rope_variant") else {}
        return reconcile(saved, written, model="The teacher", recipe_keys={"variant": "teacher_rope_variant"})
    return None if variant == "mrope" else {"variant": variant}


def with_saved_positions(model_args: Any, finetuning_args: Any) -> Any:
    """A copy of the recipe's keys with the saved value of every position key that the recipe does not write.

    Raises:
        ValueError: As :func:`settings_of_run`.
    """
    settings = settings_of_run(model_args, finetuning_args)
    resolved = copy.copy(finetuning_args)
    for setting, key in RECIPE_KEYS.items():
        setattr(resolved, key, settings[setting])
    return resolved


def bind_settings(model: Any, settings: dict[str, Any] | None) -> Any:
    """Applies ``settings`` to a model (except ``image_square``, which concerns the data path); None changes nothing.

    ``mrope`` is applied where the architecture allows it: LLaMA-Factory's chat engine passes transformers 5.6 no
    ``mm_token_type_ids``, without which image tokens silently get text positions. The bound method computes them.
    """
    if settings is None or (is_stock(settings) and not _has_image_positions(model)):
        return model
    keys = (*OPTION_DEFAULTS, "sections")
    return apply_rope(model, settings["variant"], **{key: settings[key] for key in keys if key in settings})


def _has_image_positions(model: Any) -> bool:
    try:
        inner_model(model)
    except TypeError:
        return False
    return True


def apply_saved_positions(model: Any, model_args: Any, finetuning_args: Any) -> Any:
    """Applies the run's positions to a loaded model, and to every later save and resume of it."""
    settings = settings_of_run(model_args, finetuning_args)
    if settings is None:
        return model

    bind_settings(model, settings)
    if settings["variant"] == "rope_mixed":
        for folder in _folders_with(MIXED_FILE, model_args):
            read_mixed(folder, model)
    bind_method(model, "save_pretrained", _save_with_positions(model.save_pretrained, settings))
    if hasattr(model, "load_adapter") and hasattr(model, "peft_config"):
        bind_method(model, "load_adapter", _load_with_mixed(model.load_adapter, settings))
    logger.info("Rotary positions of this model: %s.", settings["variant"])
    return model


def _save_with_positions(stock: Any, settings: dict[str, Any]) -> Callable[..., Any]:
    """``save_pretrained`` that also writes ``clinkd_config.json`` and the learned frequencies of ``rope_mixed``."""

    def save_pretrained(self: Any, save_directory: str, *args: Any, **kwargs: Any) -> Any:
        result = stock.__func__(self, save_directory, *args, **kwargs)
        write_rope_config(save_directory, settings)
        if settings["variant"] == "rope_mixed":
            write_mixed(save_directory, self, state_dict=kwargs.get("state_dict"))
        return result

    return save_pretrained


def _load_with_mixed(stock: Any, settings: dict[str, Any]) -> Callable[..., Any]:
    """PEFT's ``load_adapter``, with which the trainer resumes; an adapter's weights do not include ``rope_mixed``."""

    def load_adapter(self: Any, model_id: str, *args: Any, **kwargs: Any) -> Any:
        result = stock.__func__(self, model_id, *args, **kwargs)
        if settings["variant"] == "rope_mixed":
            read_mixed(model_id, self)
        return result

    return load_adapter


def refuse_foreign_engine(model_args: Any, finetuning_args: Any) -> None:
    """Refuses vLLM and SGLang for a model with other positions or other images than stock's.

    Raises:
        ValueError: Both engines compute Qwen2-VL's positions themselves, so the answers would be silently wrong; and
            they bypass the data path that makes images square.
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
