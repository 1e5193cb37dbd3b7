# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The rotary positions of a run: those of the recipe, and those saved with a model in ``clinkd_config.json``.

A model that is served with other positions than those of its training silently gives wrong answers. So every saved
model has this file: a format number, the arguments of :func:`.binding.apply_rope`, and ``image_square``. Training,
prediction, chat, API and export apply it without a key; a recipe that disagrees is an error.

Only a run with ``use_clinkd`` requests the file from the hub; without it only this machine is searched. A model whose
own configuration, which stock reads, has the mark of the file is refused if the file is missing.
"""

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ..utils.io import read_json, write_json
from ..utils.patching import bind_method
from ..utils.value_checks import split_list
from . import vllm_plugin
from .binding import apply_rope, is_supported
from .mcg import OPTION_DEFAULTS
from .mixed import FILE as MIXED_FILE
from .mixed import read_mixed, write_mixed
from .position_file import CONFIG_FILE, FORMAT, MARK, RECIPE_KEYS, is_stock, read_rope_config, write_rope_config


logger = logging.getLogger(__name__)


def reconcile(
    saved: dict[str, Any] | None,
    requested: dict[str, Any] | None,
    *,
    model: str = "The model",
    recipe_keys: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """Combines the settings of :func:`read_rope_config` with those of a recipe; a requested None counts as left out.

    Raises:
        ValueError: If a requested setting differs from the saved one. The message names the ``model`` and shows both
            values under their ``recipe_keys`` (setting -> key).
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


def same_positions(a: dict[str, Any] | None, b: dict[str, Any] | None) -> bool:
    """Whether two models with these settings give every token the same ``position_ids``."""

    def dependencies(settings: dict[str, Any] | None) -> dict[str, Any]:
        if settings is None or settings["variant"] in ("mrope", "rope_mixed"):  # both keep stock's `position_ids`
            return {}
        return {key: settings.get(key, OPTION_DEFAULTS.get(key)) for key in ("variant", *OPTION_DEFAULTS)}

    return dependencies(a) == dependencies(b)


def saved_settings(model_args: Any, *, hub: bool = True) -> dict[str, Any] | None:
    """The positions saved with the last adapter, else with the model; None if neither has any.

    Without ``hub``, only files on this machine are read: in a folder, or in the hub's cache.
    """
    folders = _folders_with(CONFIG_FILE, model_args, hub)
    return read_rope_config(folders[-1]) if folders else None


def _folders_with(file: str, model_args: Any, hub: bool) -> list[Path]:
    """The folders with ``file`` among those of the model and its adapters; of a hub model the folder in the cache."""
    paths = (_find_file(*place, file, model_args, hub) for place in _places(model_args))
    return [path.parent for path in paths if path is not None]


def _places(model_args: Any) -> list[tuple[str, str]]:
    """Name and subfolder of the model and of each adapter; ``adapter_folder`` is below every adapter's name."""
    below = getattr(model_args, "adapter_folder", None) or ""
    places = [(model_args.model_name_or_path, "")]
    places += [(name, below) for name in split_list(model_args.adapter_name_or_path or [])]
    return [place for place in places if place[0]]


def _find_file(name: str, subfolder: str, file: str, model_args: Any, hub: bool) -> Path | None:
    """The path of ``file`` of a model or adapter. Nothing is requested from the hub unless ``hub``."""
    try:
        path = cached_file(
            name,
            file,
            subfolder=subfolder,
            cache_dir=getattr(model_args, "cache_dir", None),
            revision=getattr(model_args, "model_revision", None),
            token=getattr(model_args, "hf_hub_token", None),
            local_files_only=not hub,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:  # neither a folder nor a hub model: loading the model raises a more precise error
        return None
    return None if path is None else Path(path)


def write_mark(directory: str | Path) -> None:
    """Marks a saved model's ``config.json`` (an adapter's ``auto_mapping``): beside it lies a file of ClinKD."""
    adapter = Path(directory) / "adapter_config.json"
    path = adapter if adapter.exists() else Path(directory) / "config.json"
    if path.exists():
        config = read_json(path)
        marked = config | {MARK: FORMAT}
        if path == adapter:  # PEFT warns of keys that it does not have; this one is free-form
            marked = config | {"auto_mapping": (config.get("auto_mapping") or {}) | {MARK: FORMAT}}
        write_json(path, marked)


def refuse_missing_settings(model_args: Any) -> None:
    """Raises a ValueError for a marked hub model without its settings on this machine. Nothing is requested."""
    for name, subfolder in _places(model_args):
        if _find_file(name, subfolder, CONFIG_FILE, model_args, hub=False) is not None or Path(name).is_dir():
            continue
        for file in ("config.json", "adapter_config.json"):
            path = _find_file(name, subfolder, file, model_args, hub=False)
            config = {} if path is None else read_json(path)
            if MARK in config or MARK in (config.get("auto_mapping") or {}):
                raise ValueError(
                    f"{name} was saved by ClinKD. The positions that it was trained with are in its {CONFIG_FILE}, "
                    "which is not on this machine. With stock positions its answers would be silently wrong. Run "
                    f"`hf download {name}` (a run without `use_clinkd` requests no file of ClinKD from the hub), or "
                    "set `use_clinkd: true`."
                )


def settings_of_run(model_args: Any, finetuning_args: Any) -> dict[str, Any] | None:
    """The saved settings, completed by the recipe's (a ValueError if they disagree); None without either."""
    use_clinkd = getattr(finetuning_args, "use_clinkd", False)
    saved = saved_settings(model_args, hub=use_clinkd)
    if not use_clinkd:
        return saved
    requested = {setting: getattr(finetuning_args, key) for setting, key in RECIPE_KEYS.items()}
    written = {setting: requested[setting] for setting, key in RECIPE_KEYS.items() if finetuning_args.is_set(key)}
    return {**requested, **reconcile(saved, written, recipe_keys=RECIPE_KEYS)}


def teacher_settings(model_args: Any, finetuning_args: Any) -> dict[str, Any] | None:
    """The positions saved with the teacher of ``model_args``, else the recipe's (a ValueError if they disagree)."""
    saved, variant = saved_settings(model_args), finetuning_args.teacher_rope_variant
    if saved is not None:
        written = {"variant": variant} if finetuning_args.is_set("teacher_rope_variant") else {}
        return reconcile(saved, written, model="The teacher", recipe_keys={"variant": "teacher_rope_variant"})
    return None if variant == "mrope" else {"variant": variant}


def with_saved_positions(model_args: Any, finetuning_args: Any) -> Any:
    """A copy of ``finetuning_args`` whose position keys have the values of :func:`settings_of_run`."""
    settings = settings_of_run(model_args, finetuning_args)
    resolved = copy.copy(finetuning_args)
    for setting, key in RECIPE_KEYS.items():
        setattr(resolved, key, settings[setting])
    return resolved


def bind_settings(model: Any, settings: dict[str, Any] | None) -> Any:
    """Applies ``settings`` to a model (except ``image_square``, which concerns the data path); None changes nothing.

    ``mrope`` is applied where the architecture allows it, for callers of ``generate`` that pass no token types.
    """
    if settings is None:
        return model
    if is_stock(settings) and not any(map(is_supported, model.modules())):
        return model
    keys = (*OPTION_DEFAULTS, "sections")
    return apply_rope(model, settings["variant"], **{key: settings[key] for key in keys if key in settings})


def apply_saved_positions(model: Any, model_args: Any, finetuning_args: Any) -> Any:
    """Applies the run's positions to a loaded model, and to every later save and resume of it."""
    use_clinkd = getattr(finetuning_args, "use_clinkd", False)
    if not use_clinkd:
        refuse_missing_settings(model_args)
    settings = settings_of_run(model_args, finetuning_args)
    if settings is None:
        return model
    bind_settings(model, settings)
    mixed, stock_save = settings["variant"] == "rope_mixed", model.save_pretrained.__func__
    pixels = [getattr(model_args, key, None) for key in ("image_min_pixels", "image_max_pixels")]

    def save_pretrained(self: Any, save_directory: str, *args: Any, **kwargs: Any) -> Any:
        result = stock_save(self, save_directory, *args, **kwargs)
        write_rope_config(save_directory, settings, image_pixels=pixels)
        write_mark(save_directory)
        if mixed:
            write_mixed(save_directory, self, state_dict=kwargs.get("state_dict"))
        return result

    bind_method(model, "save_pretrained", save_pretrained)
    if mixed:
        for folder in _folders_with(MIXED_FILE, model_args, use_clinkd):
            read_mixed(folder, model)
    if mixed and hasattr(model, "load_adapter") and hasattr(model, "peft_config"):
        stock_load = model.load_adapter.__func__

        def load_adapter(self: Any, model_id: str, *args: Any, **kwargs: Any) -> Any:
            """The trainer resumes with it; an adapter's weights do not include ``rope_mixed``."""
            result = stock_load(self, model_id, *args, **kwargs)
            read_mixed(model_id, self)
            return result

        bind_method(model, "load_adapter", load_adapter)
    logger.info("Rotary positions of this model: %s.", settings["variant"])
    return model


def refuse_foreign_engine(model_args: Any, finetuning_args: Any) -> None:
    """Raises a ValueError for vLLM and SGLang, which bypass the plugin, unless positions and images are stock's."""
    backend = getattr(model_args.infer_backend, "value", model_args.infer_backend)
    if backend in ("huggingface", "hf"):
        return
    if not getattr(finetuning_args, "use_clinkd", False):
        refuse_missing_settings(model_args)
    settings = settings_of_run(model_args, finetuning_args)
    reason = ""
    if backend == "vllm" and settings is not None:
        reason = vllm_plugin.inactive(settings)
        if model_args.adapter_name_or_path:  # the plugin reads the base model's folder
            reason = "an adapter has to be merged with `llamafactory-cli export` first"
        elif not reason and saved_settings(model_args, hub=False) != settings:
            reason = f"the model has no {CONFIG_FILE} of these keys"
        if not reason:
            return
        reason = f" The plugin for vLLM does not help: {reason} (docs/serving.md)."
    if not is_stock(settings):
        raise ValueError(
            f"`infer_backend: {backend}` computes rotary positions itself and would give this model stock M-RoPE, but "
            f"it was trained with `rope_variant: {settings['variant']}` and `rope_sections: "
            f"{settings.get('sections')}`: its answers would be silently wrong. Use `infer_backend: huggingface`."
            f"{reason}"
        )
    if settings is not None and settings.get("image_square"):
        raise ValueError(
            f"`infer_backend: {backend}` would show this model images as they are, but it was trained with "
            "`image_square: true`. Use `infer_backend: huggingface`, or train with `image_square: false` and "
            f"`rope_variant: mrope` to serve with this engine.{reason}"
        )
