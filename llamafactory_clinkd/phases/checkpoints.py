# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which checkpoint a run continues from: the newest complete one."""

import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..utils.io import read_json
from ..utils.models import missing_shards


logger = logging.getLogger(__name__)

OPTIMIZER_FILES = ("optimizer.*", "optimizer_*", "global_step*")  # of one process and DDP, of FSDP, of DeepSpeed
UNSAVED_STATE = ("use_badam", "galore_layerwise", "apollo_layerwise")
"""Recipe keys of optimizers whose ``state_dict`` lacks state: BAdam's block, its order and its fp32 copies, and all of
those that work inside the backward pass."""


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoint folders of a training, oldest first."""
    folders = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    return sorted((path for path in folders if _step(path).isdecimal()), key=lambda path: int(_step(path)))


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, ``None`` if there is none; logs the incomplete ones."""
    for path in reversed(checkpoints_in(folder)):
        fault = checkpoint_fault(path)
        if fault is None:
            return path
        logger.warning("Checkpoint %s was not written to the end (%s): the one before it is used.", path, fault)
    return None


def unsaved_state(finetuning: Any) -> str | None:
    """The key, such as ``use_badam: true``, with which no checkpoint continues training exactly; ``None`` without."""
    return next((f"{key}: true" for key in UNSAVED_STATE if getattr(finetuning, key, False)), None)


def remove_broken_checkpoints(folder: Path, finetuning: Any) -> None:
    """Removes checkpoints from which training is not continued, which ``save_total_limit`` would count.

    These are the incomplete ones of a killed run or a full disk, and all with an optimizer of :data:`UNSAVED_STATE`.
    """
    unsaved = unsaved_state(finetuning)
    for path in checkpoints_in(folder):
        fault = checkpoint_fault(path)
        if unsaved is not None:
            fault = f"`{unsaved}` keeps state of the optimizer elsewhere: the phase starts again from its beginning"
        if fault is not None:
            logger.warning("Checkpoint %s was not written to the end (%s) and is removed.", path, fault)
            shutil.rmtree(path)


def checkpoint_fault(folder: Path) -> str | None:
    """Why a checkpoint cannot be continued from, ``None`` if it is complete.

    Rank 0 writes ``trainer_state.json`` last. Other ranks' files, and those that a full disk cut off, are checked by
    the sizes in a safetensors header, the directory at the end of a ``torch.save`` file, and the index of the shards.
    """
    try:
        state = read_json(folder / TRAINER_STATE_NAME)
    except FileNotFoundError:
        return f"{TRAINER_STATE_NAME} is missing"
    except ValueError:
        return f"{TRAINER_STATE_NAME} is cut off"
    if str(state.get("global_step")) != _step(folder):
        return f"{TRAINER_STATE_NAME} is of step {state.get('global_step')}"
    if not any(any(folder.glob(pattern)) for pattern in OPTIMIZER_FILES):
        return "it has no state of the optimizer; `save_only_model: true` writes none"
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors" and not is_whole_safetensors(path):
            return f"{path.relative_to(folder)} is cut off"
        if path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path):
            return f"{path.relative_to(folder)} is cut off"
        if path.name.endswith(".safetensors.index.json") and (missing := missing_shards(path)):
            return f"{missing[0]} is missing"
    return None


def is_whole_safetensors(path: Path) -> bool:
    """Whether a safetensors file has the length that its header gives."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except SafetensorError:
        return False


def _step(folder: Path) -> str:
    return folder.name.rsplit("-", 1)[1]
