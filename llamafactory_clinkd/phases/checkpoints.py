# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which checkpoint a run continues from: the newest one that was written to the end."""

import json
import logging
import shutil
import struct
import zipfile
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


logger = logging.getLogger(__name__)


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoint folders of a training, oldest first."""
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    numbered = [path for path in found if path.name.rsplit("-", 1)[1].isdecimal()]
    return sorted(numbered, key=lambda path: int(path.name.rsplit("-", 1)[1]))


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, ``None`` if there is none; broken ones are told."""
    for path in reversed(checkpoints_in(folder)):
        fault = checkpoint_fault(path)
        if fault is None:
            return path
        logger.warning("Checkpoint %s was not written to the end (%s): the one before it is used.", path, fault)
    return None


def remove_broken_checkpoints(folder: Path) -> None:
    """Removes what a killed run or a full disk left half-written, which would count as a checkpoint of a later one."""
    for path in checkpoints_in(folder):
        fault = checkpoint_fault(path)
        if fault is not None:
            logger.warning("Checkpoint %s was not written to the end (%s) and is removed.", path, fault)
            shutil.rmtree(path)


def checkpoint_fault(folder: Path) -> str | None:
    """Why a checkpoint cannot be continued from, ``None`` if it is whole.

    Rank 0 writes ``trainer_state.json`` last; what other ranks write at the same time, and what a full disk cuts off,
    is told by the files themselves: a safetensors file by the sizes in its header, a ``torch.save`` file by the
    directory at its end, an index by the files that it names.
    """
    try:
        state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{TRAINER_STATE_NAME} is missing"
    except ValueError:
        return f"{TRAINER_STATE_NAME} is cut off"
    step = folder.name.rsplit("-", 1)[1]
    if str(state.get("global_step")) != step:
        return f"{TRAINER_STATE_NAME} is of step {state.get('global_step')}"
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors" and not is_whole_safetensors(path):
            return f"{path.relative_to(folder)} is cut off"
        if path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path):
            return f"{path.relative_to(folder)} is cut off"
        if path.name.endswith(".safetensors.index.json"):
            missing = [name for name in sorted(set(_shards(path))) if not (path.parent / name).is_file()]
            if missing:
                return f"{missing[0]} is missing"
    return None


def is_whole_safetensors(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            return False
        header = json.loads(f.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)


def _shards(index: Path) -> list[str]:
    return list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
