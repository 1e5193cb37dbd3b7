# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""open_clip models for text similarity and for candidate ranking. Importing this module imports no torch."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

from .io import read_json


if TYPE_CHECKING:
    import numpy as np
    import torch

BIOMED_CLIP = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
OPEN_CLIP_CONFIG = "open_clip_config.json"
CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # those that open_clip looks for
OFFLINE = "HF_HUB_OFFLINE is set"
ANSWER_SECONDS = 10.0  # that a server has
TEXT_TOWER_HELP = "If its text tower is a transformers model, its config.json and tokenizer files belong there too."


def find_clip(name: str) -> tuple[str, str | None]:
    """open_clip's names of a model and its weights, for ``hf-hub:OWNER/NAME``, a folder or ``ARCHITECTURE@WEIGHTS``.

    ``WEIGHTS`` is one of open_clip's tags or a file. A ValueError has every problem that shows before weights are
    loaded, a FileNotFoundError that weights or the text tower are neither in the local cache nor within reach.
    """
    import open_clip

    if name.startswith("hf-hub:"):
        require_hub_clip(name)
        return name, None
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    if folder.is_dir():
        if not (folder / OPEN_CLIP_CONFIG).is_file():
            raise ValueError(f"{folder} is no open_clip folder: {OPEN_CLIP_CONFIG} is missing. {folder_help(folder)}")
        return f"local-dir:{folder}", None
    architecture, _, weights = name.partition("@")
    if architecture not in open_clip.list_models():
        raise ValueError(
            f"The CLIP model {name!r} is neither an existing folder, nor a name of the hub (`hf-hub:OWNER/NAME`), nor "
            "one of open_clip's architectures (`python -c 'import open_clip; print(open_clip.list_pretrained())'` "
            "lists them with their weights)."
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not weights:
        raise ValueError(f"The CLIP model {name!r} names no weights. Write `{architecture}@TAG` with one of: {tags}.")
    if not Path(weights).is_file():
        if weights not in tags:
            raise ValueError(f"{weights!r} is neither a file nor one of the weights of {architecture}: {tags}.")
        _require_tag(architecture, weights)
    _require_text_tower(open_clip.get_model_config(architecture).get("text_cfg", {}))
    return architecture, weights


def is_cached_clip(name: str) -> bool:
    """Whether ``hf-hub:OWNER/NAME`` or the weights of ``ARCHITECTURE@TAG`` are in the local cache."""
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        return _is_cached(repository, OPEN_CLIP_CONFIG) and any(_is_cached(repository, each) for each in CLIP_WEIGHTS)
    repository, files, url = _source(*name.partition("@")[::2])
    if repository:
        return any(_is_cached(repository, file) for file in files)
    return Path("~/.cache/clip", Path(url).name).expanduser().is_file()  # open_clip's own


def require_hub_clip(name: str) -> None:
    """FileNotFoundError if ``hf-hub:OWNER/NAME`` is not in the cache and its configuration cannot be downloaded."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    repository = name.removeprefix("hf-hub:")
    if not is_cached_clip(name):
        _require_reachable(lambda: hf_hub_download(repository, OPEN_CLIP_CONFIG))
    config = try_to_load_from_cache(repository, OPEN_CLIP_CONFIG)
    if isinstance(config, str):
        _require_text_tower(read_json(config).get("model_cfg", {}).get("text_cfg", {}))


def _require_tag(architecture: str, tag: str) -> None:
    """FileNotFoundError if the weights of a tag are not in the cache and their source does not answer."""
    from huggingface_hub import model_info

    if is_cached_clip(f"{architecture}@{tag}"):
        return
    repository, _, url = _source(architecture, tag)
    if repository:
        _require_reachable(lambda: model_info(repository))
        return
    try:
        urlopen(Request(url, method="HEAD"), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise FileNotFoundError(f"it is not in ~/.cache/clip, and {url} does not answer ({error}).") from error


def _source(architecture: str, tag: str) -> tuple[str, list[str], str]:
    """Where open_clip takes the weights of a tag from: a repository of the hub with one of some files, else a URL."""
    from open_clip.pretrained import get_pretrained_cfg

    config = get_pretrained_cfg(architecture, tag)
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    files = [file, str(Path(file).with_suffix(".safetensors"))] if file else list(CLIP_WEIGHTS)
    return repository, files, config.get("url", "")


def _require_text_tower(text_cfg: dict[str, Any]) -> None:
    """FileNotFoundError if the hub may not be reached and has the text tower or tokenizer that is not in the cache."""
    from huggingface_hub import constants

    for name in (text_cfg.get("hf_model_name"), text_cfg.get("hf_tokenizer_name")):
        if name and constants.HF_HUB_OFFLINE and not Path(name).is_dir():
            if not any(_is_cached(name, file) for file in ("config.json", "tokenizer_config.json", "tokenizer.json")):
                raise FileNotFoundError(f"{name}, its text tower, is not in the local hub cache, and {OFFLINE}.")


def _is_cached(repository: str, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, file), str)


def _require_reachable(ask: Callable[[], Any]) -> None:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(f"it is not in the local hub cache, and {OFFLINE}.")
    try:
        ask()
    except (HfHubHTTPError, OSError, ValueError) as error:
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise FileNotFoundError(f"it is not in the local hub cache, and its download fails ({problem}).") from error


def folder_help(folder: Path) -> str:
    """What a folder needs to hold."""
    return f"{folder} must hold {OPEN_CLIP_CONFIG} and matching weights (*.safetensors or *.bin). {TEXT_TOWER_HELP}"


def load_text_encoder(model: str, device: str, batch_size: int) -> tuple[Callable[[list[str]], "np.ndarray"], str]:
    """The text encoder of a CLIP model, which maps K texts to float32 ``[K, D]``, and its :func:`weights_sha256`.

    Raises:
        ValueError: See :func:`find_clip`.
        RuntimeError: If open_clip finds no weights: a randomly initialised model is never used.
    """
    import numpy as np
    import open_clip
    import torch

    name, weights = find_clip(model)
    options = {"pretrained": weights, "require_pretrained": True, "device": device} | local_text_tower(name)
    clip = open_clip.create_model(name, **options).eval()
    tokenizer = open_clip.get_tokenizer(name)

    @torch.inference_mode()
    def encode(texts: list[str]) -> np.ndarray:
        batches = (texts[start : start + batch_size] for start in range(0, len(texts), batch_size))
        return np.concatenate([clip.encode_text(tokenizer(b).to(device)).float().cpu().numpy() for b in batches])

    return encode, weights_sha256(clip)


def local_text_tower(model_name: str) -> dict[str, Any]:
    """``text_cfg`` for ``open_clip.create_model`` if ``local-dir:FOLDER`` has a transformers text tower, else nothing.

    Without it open_clip fetches the tower's ``config.json`` from the hub although the folder holds it.
    """
    folder = Path(model_name.removeprefix("local-dir:"))
    if not model_name.startswith("local-dir:") or not (folder / "config.json").is_file():
        return {}
    text_cfg = read_json(folder / OPEN_CLIP_CONFIG).get("model_cfg", {}).get("text_cfg", {})
    if "hf_model_name" not in text_cfg:
        return {}
    return {"text_cfg": {**text_cfg, "hf_model_name": str(folder), "hf_model_pretrained": False}}


def weights_sha256(model: "torch.nn.Module") -> str:
    """SHA-256 over the names and bytes of all parameters and buffers in the order of their names, 64 hex digits."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
