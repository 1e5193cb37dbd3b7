# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The miniature benchmark: real scans and small models, the same from one command, which tables 1 to 3 are run on.

Brain MR, abdominal CT and abdominal MR with the boxes of their structures, seen through random fields of view.
Training, validation and test share no slice. There is one volume of each kind, so that they do share volumes.
"""

from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llamafactory_clinkd.reproduce.prepare import MINI_MODELS, write_blind
from llamafactory_clinkd.utils.boxes import strip_boxes
from llamafactory_clinkd.utils.io import content_hash, file_sha256, read_json, write_json

from . import models as demo_models
from . import pretrain as demo_pretrain
from . import scans as demo_scans
from .clip_scorer import train_demo_scorer
from .held_out import VALIDATION, hold_out
from .pretrain import PretrainSettings
from .render import SIZE
from .scans import DataSettings


VERSION = 2
"""Raise it when the same settings give another benchmark."""
MINI = (
    DataSettings(seed=0, train=4600, test=2200, pretrain=20000),
    # Pointing is learnt from many more boxes than the demo has time for. The teacher has to know more than the base.
    PretrainSettings(vision_steps=1500, base_steps=4000, teacher_steps=6000),
)
"""What is drawn; the validation part and the gap before it are taken out of ``train`` and ``pretrain``."""
TRAIN, VALIDATION_ROWS = 3200, 600
SCORER_STEPS = 250


def benchmark_id() -> str:
    """What the results of this benchmark may be compared under; known without building anything."""
    return content_hash(
        [VERSION, *map(asdict, MINI), TRAIN, VALIDATION_ROWS, SCORER_STEPS, demo_scans.FORMAT, demo_pretrain.FORMAT]
        + [asdict(demo_models.BASE), asdict(demo_models.TEACHER)]
    )


def build_mini(
    directory: Path,
    cache: Path,
    show: Callable[..., None],
    say: Callable[[str], None],
    models: Collection[str] = MINI_MODELS,
) -> None:
    """Builds data and models in ``directory``, or what is missing of them.

    Args:
        directory: ``data``, ``models`` and ``work`` are made in it.
        cache: Folder of the downloaded scans.
        show: Called with (what, done, total, note).
        say: Called with each message.
        models: Those that are wanted, of :data:`MINI_MODELS`.

    Raises:
        ScansUnavailable: If the CT cannot be had: without it this is another benchmark.
    """
    build_benchmark_data(directory / "data", cache, show, say)
    demo_pretrain.pretrain(
        directory / "data",
        directory / "models",
        directory / "work",
        MINI[1],
        lambda part, step, steps, loss: show(f"pretraining: {part}", step, steps, f"loss {loss:.2f}"),
        [name for name in demo_pretrain.MODELS if name in models],
    )
    if "scorer" in models:
        _build_scorer(directory, show)


def _build_scorer(directory: Path, show: Callable[..., None]) -> None:
    """Trains the CLIP model that ranks candidates on the training captions, or finds it trained."""
    data, scorer, marker = directory / "data", directory / "models" / "scorer", directory / "models" / "scorer.json"
    if marker.is_file() and read_json(marker) == {"benchmark": benchmark_id()}:
        return
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (scorer / name).unlink(missing_ok=True)
    captions = [row for row in read_json(data / "demo_train.json") if row["task"] in ("RC", "MIA")]
    pairs = [(data / row["images"][0], strip_boxes(row["messages"][1]["content"])) for row in captions]

    def advance(step: int, total: int, loss: float) -> None:
        show("training: CLIP scorer", step, total, f"loss {loss:.2f}")

    train_demo_scorer(pairs, scorer, steps=SCORER_STEPS, advance=advance)
    write_json(marker, {"benchmark": benchmark_id()})


def build_benchmark_data(
    data: Path, cache: Path, show: Callable[..., None], say: Callable[[str], None]
) -> dict[str, Any]:
    """Draws the rows, holds the validation part out, and writes the blind copies; ``benchmark.json`` comes last."""
    from .fetch import fetch_totalsegmentator

    marker = data / "benchmark.json"
    identity = content_hash([VERSION, asdict(MINI[0]), TRAIN, VALIDATION_ROWS, demo_scans.FORMAT])
    if marker.is_file() and (built := read_json(marker))["id"] == identity:
        return built
    marker.unlink(missing_ok=True)
    (data / "build.json").unlink(missing_ok=True)  # half-cut rows are drawn anew
    archive = fetch_totalsegmentator(cache)
    built = demo_scans.build_data(
        data, MINI[0], cache, say=say, advance=lambda done, total: show("real scans -> rows", done, total, "")
    )
    kept = hold_out(data, demo_scans.load_scans(archive).volumes, train=TRAIN, validation=VALIDATION_ROWS)
    write_json(data / "build.json", {**built, "hash": content_hash([built["hash"], VERSION, kept])})
    write_blind(data, [f"demo_{part}" for part in ("train", VALIDATION, "test")], side=SIZE)
    files = [f"demo_{part}.json" for part in ("train", VALIDATION, "test", "pretrain")]
    content = {"id": identity, "rows": {**kept, "test": MINI[0].test}, "scans": built["scans"]}
    content["sha256"] = {name: file_sha256(data / name) for name in files}
    write_json(marker, content)
    return content
