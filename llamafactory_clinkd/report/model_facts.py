# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What can be said about the model in a run folder without loading it."""

import math
from pathlib import Path
from typing import Any

from ..utils.io import read_json


def describe_model(folder: Path) -> str | None:
    """A phrase about the model saved in ``folder``, from its configuration and the headers of its weights.

    Returns:
        For example ``qwen2_vl, hidden size 128, 4 layers, 1.9 M parameters``; None if there is no model.
    """
    adapter, config = folder / "adapter_config.json", folder / "config.json"
    size = _parameters(folder)
    counted = "" if size is None else f", {_short_count(size)} parameters"
    if adapter.is_file():
        settings = read_json(adapter)
        base = settings.get("base_model_name_or_path") or "an unnamed base"
        kind, rank = settings.get("peft_type", "adapter"), settings.get("r", "?")
        return f"{kind} of rank {rank} on {base}" + (f"{counted} in the adapter" if counted else "")
    if not config.is_file():
        return None
    settings = read_json(config)
    text = settings.get("text_config", settings)
    facts = [str(settings.get("model_type", "unknown type"))]
    if "hidden_size" in text:
        facts.append(f"hidden size {text['hidden_size']}")
    if "num_hidden_layers" in text:
        facts.append(f"{text['num_hidden_layers']} layers")
    return ", ".join(facts) + counted


def describe_fingerprint(found: Any) -> str:
    """A model as ``state.json`` recorded it: a hub name, or a local folder by its weight files.

    Args:
        found: A string, or ``{"weights": [[name, bytes, sample], ...], "configs": [sha256, ...]}``; the samples of the
            content are absent in states of older versions.
    """
    if isinstance(found, str):
        return found
    if not isinstance(found, dict) or not found.get("weights"):
        return "a local folder without weight files"
    total = sum(size for _, size, *_ in found["weights"])
    config = f", configuration {found['configs'][0][:8]}" if found.get("configs") else ""
    return f"a local folder with {total / 1e6:,.1f} MB of weights{config}"


def _parameters(folder: Path) -> int | None:
    """Number of stored parameters, from the safetensors headers; None without such files."""
    from safetensors import SafetensorError, safe_open

    total, files = 0, sorted(folder.glob("*.safetensors"))
    for path in files:
        try:
            with safe_open(path, framework="np") as f:
                total += sum(math.prod(f.get_slice(key).get_shape()) for key in f.keys())  # noqa: SIM118
        except SafetensorError:
            return None  # a torn file cannot be counted; the configuration still describes the model
    return total if files else None


def _short_count(count: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return str(count)
