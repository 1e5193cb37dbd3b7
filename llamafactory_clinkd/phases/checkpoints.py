# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What earlier runs left in a folder: the checkpoint to continue from, and what is refused or removed.

Beside another model, transformers would load an adapter's base, an old shard index, or an old tokenizer file.
"""

import logging
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..utils.io import read_json
from ..utils.models import missing_shards
from ..utils.value_checks import split_list
from .content import WEIGHT_FILES


logger = logging.getLogger(__name__)

OPTIMIZER_FILES = ("optimizer.*", "optimizer_*", "global_step*")  # of one process and DDP, of FSDP, of DeepSpeed
UNSAVED_STATE = ("use_badam", "galore_layerwise", "apollo_layerwise")
"""Recipe keys of optimizers whose ``state_dict`` lacks state: BAdam's block, its order and its fp32 copies, and all of
those that work inside the backward pass."""

MODEL_FILES = ("adapter_config.json", *WEIGHT_FILES, "*.safetensors.index.json", "*.bin.index.json")
WRITTEN_BESIDE = (
    "config.json", "generation_config.json", "clinkd_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json", "training_args.bin", "trainer_state.json",
    "trainer_log.jsonl", "all_results.json", "train_results.json", "eval_results.json", "predict_results.json",
    "generated_predictions.jsonl", "training_*.png", "pissa_init", "pissa_backup", "pissa_converted",
)  # fmt: skip
"""Names that LLaMA-Factory and transformers write beside a model; LLaMA Board writes others before a run."""


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
        reason = f"it was not written to the end ({fault})"
        if unsaved is not None:
            reason = f"`{unsaved}` keeps state of the optimizer elsewhere: the phase starts again from its beginning"
        if unsaved is not None or fault is not None:
            logger.warning("Checkpoint %s is removed: %s.", path, reason)
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


def model_files(folder: Path) -> list[Path]:
    """The files in a folder that would be loaded as a model or an adapter, or that name others."""
    return sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern))


def adapter_card(folder: Path) -> Path | None:
    """The model card of an adapter: stock's card writer fails on it when another kind of model was trained."""
    card = folder / "README.md"
    return card if card.is_file() and _card_library(card) == "peft" else None


def written_by_runs(output_dir: Path) -> list[Path]:
    """Everything in ``output_dir`` that a run wrote, by its name; a README only if it is a model card."""
    card = output_dir / "README.md"
    named = [path for pattern in WRITTEN_BESIDE for path in output_dir.glob(pattern)]
    cards = [card] if card.is_file() and _card_library(card) is not None else []
    folders = [path for path in (output_dir / "clinkd",) if path.is_dir()]
    return [*model_files(output_dir), *named, *cards, *folders, *checkpoints_in(output_dir)]


def remove_earlier_run(output_dir: Path, arguments: Any) -> None:
    """Removes what an earlier run wrote to ``output_dir`` (``overwrite_output_dir: true``), and nothing else.

    Raises:
        ValueError: If the recipe reads a model or data from what would be removed.
    """
    paths = written_by_runs(output_dir)
    model, finetuning, data = arguments.model, arguments.finetuning, arguments.data
    adapters = {
        "adapter_name_or_path": model.adapter_name_or_path,
        "ref_model_adapters": finetuning.ref_model_adapters,
    }
    read = {key: split_list(value or []) for key, value in adapters.items()}
    read |= {"model_name_or_path": [model.model_name_or_path], "ref_model": [finetuning.ref_model]}
    read |= {"dataset_dir": [data.dataset_dir], "media_dir": [data.media_dir]}
    removed = [path.resolve() for path in paths]
    for key, values in read.items():
        for value in [Path(value).resolve() for value in values if isinstance(value, str)]:
            inside = any(value.is_relative_to(path) for path in removed)
            if inside or (value == output_dir.resolve() and model_files(output_dir) and not key.endswith("_dir")):
                raise ValueError(
                    f"`{key}: {value}` is in `output_dir: {output_dir}`, which `overwrite_output_dir: true` clears "
                    "before the run reads it. Choose another `output_dir`."
                )
    if paths:
        names = ", ".join(sorted({path.name for path in paths}))
        logger.info("`overwrite_output_dir: true` removes from %s: %s.", output_dir, names)
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def refuse_leftovers(folder: Path, phase: str, *, adapter: bool) -> None:
    """Raises ``ValueError`` if a training that starts anew would write beside another run's model or checkpoints."""
    card = None if adapter else adapter_card(folder)
    found = [*checkpoints_in(folder)[-1:], *model_files(folder), *([] if card is None else [card])]
    if found:
        raise ValueError(
            f"{found[0]} is of another run: phase `{phase}` would continue from it after an interruption, or mix its "
            "model with it. Choose a new `output_dir`, or set `overwrite_output_dir: true`, which removes what "
            "earlier runs wrote there."
        )


def _card_library(card: Path) -> str | None:
    """``library_name`` in the header of a model card; ``None`` if the file is no such card."""
    header = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    library = re.search(r"^library_name:\s*['\"]?([\w.-]+)", header[1], re.MULTILINE) if header else None
    return library[1] if library else None
