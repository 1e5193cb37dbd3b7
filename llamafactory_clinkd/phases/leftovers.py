# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What earlier runs left in ``output_dir``: refused, or removed with ``overwrite_output_dir``.

transformers loads an adapter's base instead of the model beside it, an old shard index, or an old tokenizer file.
"""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

from ..utils.value_checks import split_list
from .checkpoints import checkpoints_in
from .content import WEIGHT_FILES


logger = logging.getLogger(__name__)

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
    read = {
        "model_name_or_path": [model.model_name_or_path],
        "adapter_name_or_path": model.adapter_name_or_path or [],
        "ref_model": [finetuning.ref_model],
        "ref_model_adapters": finetuning.ref_model_adapters or [],
        "dataset_dir": [data.dataset_dir],
        "media_dir": [data.media_dir],
    }
    removed = [path.resolve() for path in paths]
    for key, values in read.items():
        for value in [Path(value).resolve() for value in split_list(values) if isinstance(value, str)]:
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
