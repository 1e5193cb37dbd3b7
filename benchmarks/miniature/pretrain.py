# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Pretrains the miniature's models: one vision tower, then a base, a teacher or both on top of it, side by side.

A finished model with the same settings is kept; an interrupted one continues from its last checkpoint.
"""

import multiprocessing
import os
import queue
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llamafactory_clinkd.utils.io import content_hash, read_json, write_json

from .corpus import load_corpus
from .language import train_language
from .models import BASE, TEACHER, build_demo_models
from .vision import train_tower
from .workers import end_with_parent


FORMAT = 3  # raise it when the same settings give other models
MODELS = ("base", "teacher")
Advance = Callable[[str, int, int, float], None]  # part ("vision", "base" or "teacher"), steps done, steps, loss


@dataclass(frozen=True)
class PretrainSettings:
    """Optimiser steps of each part, and the seed."""

    vision_steps: int = 700
    base_steps: int = 850
    teacher_steps: int = 680
    seed: int = 0


def pretrain(
    data: Path,
    models: Path,
    work: Path,
    settings: PretrainSettings,
    advance: Advance = lambda part, step, steps, loss: None,
    wanted: Collection[str] = MODELS,
) -> dict[str, Path]:
    """Trains the vision tower, then base and teacher at the same time, each in a process of its own.

    A model comes out the same whether or not the other is wanted.

    Args:
        data: The folder of :func:`~miniature.scans.build_data`.
        models: The folders ``base`` and ``teacher`` are made in it.
        work: Folder for checkpoints.
        settings: Steps and seed.
        advance: Called with (part, steps done, steps, loss).
        wanted: Which of the two models.

    Returns:
        Name of each that is wanted -> its folder.
    """
    described = [FORMAT, read_json(data / "build.json")["hash"], asdict(settings), asdict(BASE), asdict(TEACHER)]
    fingerprint = content_hash(described)
    folders = {name: models / name for name in MODELS if name in wanted}
    todo = [name for name in folders if not is_trained(models, name, fingerprint)]
    if not todo:
        return folders

    for name in todo:
        _marker(models, name).unlink(missing_ok=True)
    # Threads that wait for each other sleep: spinning made a step six times slower beside another busy process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    work = work / fingerprint[:12]  # checkpoints of other settings are not gone on with
    context, cores = multiprocessing.get_context("spawn"), os.cpu_count() or 1
    messages = context.Queue()
    with ProcessPoolExecutor(2, context, _start_worker, (messages,)) as pool:
        tower = pool.submit(_tower, data, work, settings, cores)
        (seen,) = _follow([tower], messages, advance)
        parts = [
            pool.submit(_language, part, data, folders[part], work, settings, max(cores // 2, 1)) for part in todo
        ]
        losses = dict(zip(todo, _follow(parts, messages, advance), strict=True))
    for name, loss in losses.items():
        told = {"hash": fingerprint, "settings": asdict(settings), "losses": {"vision": seen, name: loss}}
        write_json(_marker(models, name), told)
    return folders


def is_trained(models: Path, name: str, fingerprint: str | None = None) -> bool:
    """Whether a model is finished, with ``fingerprint``: of these data and settings."""
    marker = _marker(models, name)
    return marker.is_file() and fingerprint in (None, read_json(marker)["hash"])


def losses_of(models: Path) -> dict[str, float]:
    """Part -> the loss that the pretraining of the finished models ended at."""
    found: dict[str, float] = {}
    for name in MODELS:
        if is_trained(models, name):
            found |= read_json(_marker(models, name))["losses"]
    return found


def _marker(models: Path, name: str) -> Path:
    """Written once a model is finished."""
    return models / f"{name}.json"


def _follow(futures: list[Future], messages: Any, advance: Advance) -> list[float]:
    """Passes progress on until every future is done; returns their losses, or raises what they raised."""
    while not all(future.done() for future in futures):
        try:
            advance(*messages.get(timeout=0.5))
        except queue.Empty:
            continue
    return [future.result() for future in futures]


_worker: dict[str, Any] = {}


def _start_worker(messages: Any) -> None:
    """Keeps the queue for progress in a worker, which ends with its parent."""
    end_with_parent()
    _worker["messages"] = messages


def _progress(part: str) -> Callable[[int, int, float], None]:
    """An ``advance`` for the training loop that passes progress to the parent."""
    return lambda step, steps, loss: _worker["messages"].put((part, step, steps, loss))


def _tower(data: Path, work: Path, settings: PretrainSettings, threads: int) -> float:
    """Trains the tower, and saves both models with it in ``work``; their language models are untrained."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(threads)
    corpus = load_corpus(data)
    texts = [message["content"] for row in corpus.messages for message in row]
    folders = build_demo_models(work, texts, seed=settings.seed)
    loaded = {name: AutoModelForImageTextToText.from_pretrained(folder) for name, folder in folders.items()}
    processor = AutoProcessor.from_pretrained(folders["base"])
    tower = loaded["base"].model.visual
    loss = train_tower(
        tower,
        corpus,
        processor,
        steps=settings.vision_steps,
        checkpoint=work / "vision.safetensors",
        seed=settings.seed,
        advance=_progress("vision"),
    )
    seen = {name: value for name, value in tower.state_dict().items() if not name.startswith("merger.")}
    for name, model in loaded.items():
        model.model.visual.load_state_dict(seen, strict=False)
        model.save_pretrained(folders[name])
    return loss


def _language(part: str, data: Path, folder: Path, work: Path, settings: PretrainSettings, threads: int) -> float:
    """Trains the language model of one size and saves the whole model."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(threads)
    untrained = work / part
    model, processor = AutoModelForImageTextToText.from_pretrained(untrained), AutoProcessor.from_pretrained(untrained)
    loss = train_language(
        model,
        load_corpus(data),
        processor,
        steps=settings.base_steps if part == "base" else settings.teacher_steps,
        checkpoint=work / f"{part}.safetensors",
        seed=settings.seed + 1,
        advance=_progress(part),
    )
    shutil.copytree(untrained, folder, dirs_exist_ok=True)  # tokenizer, processor and chat template
    model.save_pretrained(folder)
    return loss
