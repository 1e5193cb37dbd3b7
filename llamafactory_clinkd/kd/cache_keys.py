# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Keys of the teacher cache: a hash of everything that a sample's hidden states depend on.

A sample is hashed in the collator, before padding and before its images are decoded: the bytes of its media files with
the settings that turn them into pixels. Library versions are among these, since a resampling filter may change.
"""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from ..utils.environment import installed_version
from ..utils.io import content_hash, file_sha256


logger = logging.getLogger(__name__)

CACHE_KEY = "clinkd_cache_key"
TOKENS = ("input_ids", "labels", "attention_mask", "position_ids")
MEDIA = ("images", "videos", "audios")
WEIGHTS = ("*.safetensors", "*.bin")
CONFIGS = ("config.json", "adapter_config.json")
PIXEL_LIBRARIES = ("transformers", "pillow", "torchvision", "llamafactory", "llamafactory-clinkd")
PIXEL_PREFIXES = ("image_", "video_", "audio_", "crop_to_patches", "use_audio_in_video")


def sample_key(feature: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """SHA-256, 64 hexadecimal digits, of one tokenised sample.

    Args:
        feature: Input of stock's collator: :data:`TOKENS` as lists of ints of one length; :data:`MEDIA` as lists of
            paths, bytes, ``{"path", "bytes"}``, PIL images, arrays or lists of them (a video's frames), or None;
            ``packing_params``.
        settings: From :func:`pixel_settings`.

    Raises:
        ValueError: If ids and labels differ in length.
        TypeError: If a medium is of another kind.
    """
    if len(feature["input_ids"]) != len(feature["labels"]):
        raise ValueError(
            f"input_ids have {len(feature['input_ids'])} entries and labels {len(feature['labels'])}; expected one "
            "sample without padding."
        )
    digest = hashlib.sha256(content_hash([settings, feature.get("packing_params")]).encode())
    for name in TOKENS:
        digest.update(f"{name};".encode())
        if feature.get(name) is not None:
            digest.update(np.asarray(feature[name], dtype=np.int64).tobytes())
    for name in MEDIA:
        digest.update(f"{name};".encode())
        _hash_medium(digest.update, feature.get(name) or [])
    return digest.hexdigest()


def _hash_medium(update: Callable[[bytes], None], medium: Any) -> None:
    """Hashes a medium's content after its kind and length, so that neighbours cannot run together."""
    if isinstance(medium, Mapping) and (medium.get("bytes") is not None or medium.get("path") is not None):
        medium = medium["bytes"] if medium.get("bytes") is not None else medium["path"]
    if isinstance(medium, io.IOBase):
        medium = medium.read()
    if isinstance(medium, (str, Path)):
        path = Path(medium)  # a folder holds a video's frames
        medium = [each.read_bytes() for each in sorted(path.iterdir())] if path.is_dir() else path.read_bytes()
    if isinstance(medium, bytes):
        update(f"bytes {len(medium)};".encode() + medium)
    elif isinstance(medium, (list, tuple)):
        update(f"list {len(medium)};".encode())
        for item in medium:
            _hash_medium(update, item)
    elif isinstance(medium, Image.Image):
        update(f"image {medium.mode} {medium.size};".encode() + medium.tobytes())
    elif isinstance(medium, (np.ndarray, torch.Tensor)):
        array = np.ascontiguousarray(medium)
        update(f"array {array.dtype} {array.shape};".encode() + array.tobytes())
    else:
        raise TypeError(
            f"`kd_cache: hidden` cannot tell one {type(medium).__name__} from another; expected a path, bytes, a PIL "
            "image or an array. Set `kd_cache: off`."
        )


class KeyedCollator:
    """Stock's collator, whose batches also get their samples' keys, uint8 ``[B, 32]`` under :data:`CACHE_KEY`."""

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]], settings: dict[str, Any]) -> None:
        self._collator, self._settings = collator, settings
        self.template = getattr(collator, "template", None)  # which rollouts read

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Computes the keys first: stock's collator takes the media out of the features."""
        keys = [list(bytes.fromhex(sample_key(feature, self._settings))) for feature in features]
        batch = self._collator(features)
        batch[CACHE_KEY] = torch.tensor(keys, dtype=torch.uint8)
        return batch


def pop_keys(batch: dict[str, Any]) -> list[str]:
    """Takes the keys out of a batch."""
    return [bytes(row).hex() for row in batch.pop(CACHE_KEY).cpu().tolist()]


def keyed_rows(batch: Mapping[str, Any]) -> list[tuple[str, list[int], list[int]]]:
    """The key, ids and labels of each row of a batch, without padding."""
    keys = pop_keys(dict(batch))
    tensors = zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
    rows = [(ids[mask != 0].tolist(), labels[mask != 0].tolist()) for ids, labels, mask in tensors]
    return [(key, *row) for key, row in zip(keys, rows, strict=True)]


def teacher_identity(model_arguments: Any, positions: dict[str, Any] | None) -> str:
    """``"<name>@<16 hexadecimal digits>"``: all that the teacher's hidden states depend on besides its input.

    Weights of a local folder are hashed, which takes about a second for each GB.
    """
    names, subfolder = [model_arguments.model_name_or_path], getattr(model_arguments, "adapter_folder", None) or ""
    adapters = list(model_arguments.adapter_name_or_path or [])
    identity = {
        "weights": [
            *(_weights_identity(name, "", model_arguments) for name in names),
            *(_weights_identity(name, subfolder, model_arguments) for name in adapters),
        ],
        "positions": positions,
        "quantization": [model_arguments.quantization_bit, str(model_arguments.quantization_type)],
        "dtype": [str(model_arguments.compute_dtype), str(model_arguments.infer_dtype)],
        "rope_scaling": str(model_arguments.rope_scaling),
    }
    return f"{Path([*names, *adapters][-1]).name}@{content_hash(identity)[:16]}"


def _weights_identity(name: str, subfolder: str, model_arguments: Any) -> dict[str, Any]:
    """Hashes of a local folder's files, or a hub name with its commit."""
    folder = Path(name, subfolder)
    if folder.is_dir():
        files = sorted(path for pattern in (*WEIGHTS, *CONFIGS) for path in folder.glob(pattern))
        logger.info("Hashing %d files of the teacher in %s.", len(files), folder)
        return {path.name: file_sha256(path) for path in files}
    for config in CONFIGS:
        path = cached_file(
            name,
            config,
            subfolder=subfolder,
            revision=model_arguments.model_revision,
            cache_dir=model_arguments.cache_dir,
            token=model_arguments.hf_hub_token,
            _raise_exceptions_for_missing_entries=False,
        )
        if path is not None:
            return {"name": name, "commit": extract_commit_hash(path, None)}
    raise FileNotFoundError(f"{name} has neither {' nor '.join(CONFIGS)}. Correct `ref_model` or its adapters.")


def pixel_settings(processor: Any, model_arguments: Any, *, image_square: bool) -> dict[str, Any]:
    """Settings that turn media files into the models' input, JSON-able; ``processor`` is None for text models."""
    processors = {name: getattr(processor, name, None) for name in ("image_processor", "video_processor")}
    settings = {
        "processors": {name: None if each is None else each.to_dict() for name, each in processors.items()},
        "limits": {key: value for key, value in vars(model_arguments).items() if key.startswith(PIXEL_PREFIXES)},
        "image_square": image_square,
        "libraries": {name: installed_version(name) for name in PIXEL_LIBRARIES},
    }
    return json.loads(json.dumps(settings, default=str))
