# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd_config.json``: the positions a model was trained with, beside every saved model.

A model served with other positions than those it was trained with is silently wrong; the file makes that impossible to
forget. It holds a format number, the arguments of :func:`.qwen2_vl.apply_rope`, and ``image_square`` of the data path.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..utils.io import read_json, write_json


FILE = "clinkd_config.json"
FORMAT = 1
KEYS = ("variant", "alpha_h", "alpha_w", "gap", "sections", "image_square")


def write_rope_config(directory: str | Path, settings: dict[str, Any]) -> Path:
    """Writes ``settings`` to ``clinkd_config.json`` in ``directory``, atomically.

    Args:
        directory: Folder of the saved model or adapter; made if missing.
        settings: ``rope_settings(model)``, and ``image_square`` where it applies.

    Raises:
        ValueError: If a key is unknown or ``variant`` is missing.
    """
    path = Path(directory) / FILE
    _check_keys(settings, "The settings to save")
    write_json(path, {"format": FORMAT, **settings})
    return path


def read_rope_config(directory: str | Path) -> dict[str, Any] | None:
    """Reads what :func:`write_rope_config` wrote, without the format number; None where there is no such file.

    Raises:
        ValueError: If the file is damaged, or of a format that this version does not know.
    """
    path = Path(directory) / FILE
    if not path.exists():
        return None
    saved = read_json(path)
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        found = saved.get("format") if isinstance(saved, dict) else saved
        raise ValueError(
            f"{path} has the format {found!r}, this version of llamafactory-clinkd reads {FORMAT}. Install the "
            "version that wrote the file."
        )
    settings = {key: value for key, value in saved.items() if key != "format"}
    _check_keys(settings, str(path))
    return settings


def reconcile(
    saved: dict[str, Any] | None,
    requested: dict[str, Any] | None,
    *,
    model: str = "The model",
    recipe_keys: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """The settings to use, where what was saved and what a recipe asks for agree.

    A key that the recipe leaves out, or leaves at None, is not asked for; what neither side has stays absent.

    Args:
        saved: What :func:`read_rope_config` found.
        requested: What the recipe asks for.
        model: Whose settings they are, for the message.
        recipe_keys: A setting's name in the recipe, for the message.

    Raises:
        ValueError: If a requested key differs from the saved one; the message shows both.
    """
    if saved is None or requested is None:
        return requested if saved is None else saved
    asked = {key: value for key, value in requested.items() if value is not None}
    different = [key for key, value in asked.items() if key in saved and saved[key] != value]
    if different:
        names = {key: (recipe_keys or {}).get(key, key) for key in different}
        rows = "; ".join(f"`{names[key]}: saved {saved[key]!r}, requested {asked[key]!r}`" for key in different)
        raise ValueError(
            f"{model} was saved with other positions than the recipe asks for ({rows}). Saved: {saved}. Requested: "
            f"{asked}. Take these keys out of the recipe, and the saved values apply; or start from a model without "
            f"{FILE}."
        )
    return {**asked, **saved}


def _check_keys(settings: dict[str, Any], where: str) -> None:
    """Refuses settings without a variant or with a key that nothing would read."""
    unknown = [key for key in settings if key not in KEYS]
    if unknown or "variant" not in settings:
        raise ValueError(f"{where}: keys must be {', '.join(KEYS)}, `variant` among them; found {list(settings)}.")
