# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What text similarity and candidate ranking share about open_clip models. Importing this module imports no torch."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .io import read_json


if TYPE_CHECKING:
    import torch

BIOMED_CLIP = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
OPEN_CLIP_CONFIG = "open_clip_config.json"


def local_text_tower(model_name: str) -> dict[str, Any]:
    """Arguments for ``open_clip.create_model`` that keep a local transformers text tower off the network.

    Without them open_clip fetches the tower's ``config.json`` from the hub although the folder holds it.

    Args:
        model_name: The name as open_clip takes it; only ``local-dir:FOLDER`` can need arguments.

    Returns:
        ``{"text_cfg": ...}``, or an empty dictionary where the text tower is not a transformers model.
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
