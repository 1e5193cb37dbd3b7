# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which teacher cached states are of, and what their samples' pixels were made by."""

import importlib.metadata
import json
import logging
from pathlib import Path
from typing import Any

from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from ..utils.io import content_hash, file_sha256


logger = logging.getLogger(__name__)

WEIGHTS = ("*.safetensors", "*.bin")
CONFIGS = ("config.json", "adapter_config.json")
PIXEL_LIBRARIES = ("transformers", "pillow", "torchvision", "llamafactory", "llamafactory-clinkd")
PIXEL_PREFIXES = ("image_", "video_", "audio_", "crop_to_patches", "use_audio_in_video")


def teacher_identity(model_arguments: Any, positions: dict[str, Any] | None) -> str:
    """Name and hash of everything that the teacher's hidden states depend on, besides its input.

    Args:
        model_arguments: ``ModelArguments`` that load the teacher.
        positions: Its rotary positions.

    Returns:
        ``"<name>@<16 hexadecimal digits>"``; weights of a local folder count by their content, which takes a second
        for about each GB.
    """
    names = [model_arguments.model_name_or_path, *(model_arguments.adapter_name_or_path or [])]
    found = {
        "weights": [_revision(name, model_arguments) for name in names],
        "positions": positions,
        "quantization": [model_arguments.quantization_bit, str(model_arguments.quantization_type)],
        "dtype": [str(model_arguments.compute_dtype), str(model_arguments.infer_dtype)],
        "rope_scaling": str(model_arguments.rope_scaling),
    }
    return f"{Path(names[-1]).name}@{content_hash(found)[:16]}"


def _revision(name: str, model_arguments: Any) -> Any:
    """Hashes of a local folder's files, or a hub name with its commit."""
    folder = Path(name)
    if folder.is_dir():
        files = sorted(path for pattern in (*WEIGHTS, *CONFIGS) for path in folder.glob(pattern))
        logger.info("Hashing %d files of the teacher in %s.", len(files), folder)
        return {path.name: file_sha256(path) for path in files}
    for config in CONFIGS:
        found = cached_file(
            name,
            config,
            revision=model_arguments.model_revision,
            cache_dir=model_arguments.cache_dir,
            token=model_arguments.hf_hub_token,
            _raise_exceptions_for_missing_entries=False,
        )
        if found is not None:
            return {"name": name, "commit": extract_commit_hash(found, None)}
    raise FileNotFoundError(f"{name} has neither {' nor '.join(CONFIGS)}. Correct `ref_model` or its adapters.")


def pixel_settings(processor: Any, model_arguments: Any, *, image_square: bool) -> dict[str, Any]:
    """What turns media files into what the models see, JSON-able.

    Args:
        processor: The student's, or None for text.
        model_arguments: The student's ``ModelArguments``, with limits such as ``image_max_pixels``.
        image_square: Whether images are resampled to width = height.
    """
    parts = {name: getattr(processor, name, None) for name in ("image_processor", "video_processor")}
    found = {
        "processors": {name: None if part is None else part.to_dict() for name, part in parts.items()},
        "limits": {key: value for key, value in vars(model_arguments).items() if key.startswith(PIXEL_PREFIXES)},
        "image_square": image_square,
        "libraries": {name: _version(name) for name in PIXEL_LIBRARIES},
    }
    return json.loads(json.dumps(found, default=str))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
