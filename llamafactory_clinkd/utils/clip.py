# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""open_clip models for text similarity and for candidate ranking. Importing this module imports no torch."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .io import read_json


if TYPE_CHECKING:
    import numpy as np
    import torch

BIOMED_CLIP = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
OPEN_CLIP_CONFIG = "open_clip_config.json"


def split_clip_name(model: str, pretrained: Sequence[tuple[str, str]]) -> tuple[str, str | None]:
    """Splits ``hf-hub:OWNER/NAME``, a folder, or ``ARCHITECTURE@TAG`` into open_clip's model name and pretrained tag.

    ``pretrained`` is ``open_clip.list_pretrained()``; a ValueError lists its tags if a name is none of these.
    """
    if model.startswith(("hf-hub:", "local-dir:")):
        return model, None
    if Path(model).is_dir():
        return f"local-dir:{model}", None
    name, _, tag = model.partition("@")
    if (name, tag) in pretrained:
        return name, tag
    tags = sorted(tag for architecture, tag in pretrained if architecture == name)
    hint = f"with one of the tags {', '.join(tags)}" if tags else "such as ViT-B-32@openai"
    raise ValueError(
        f"The CLIP model {model!r} names no weights: expected hf-hub:OWNER/NAME, a folder with {OPEN_CLIP_CONFIG}, "
        f"or ARCHITECTURE@TAG, {hint}."
    )


def load_text_encoder(model: str, device: str, batch_size: int) -> tuple[Callable[[list[str]], "np.ndarray"], str]:
    """The text encoder of a CLIP model, which maps K texts to float32 ``[K, D]``, and its :func:`weights_sha256`.

    Raises:
        ValueError: See :func:`split_clip_name`.
        RuntimeError: If open_clip finds no weights: a randomly initialised model is never used.
    """
    import numpy as np
    import open_clip
    import torch

    name, tag = split_clip_name(model, open_clip.list_pretrained())
    overrides = local_text_tower(name)
    clip = open_clip.create_model(name, pretrained=tag, device=device, require_pretrained=True, **overrides).eval()
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
