# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase distill with a teacher behind a server: checks before the first phase, scores before the first step."""

import logging
from typing import Any

import numpy as np

from ..kd.cache_keys import pixel_settings
from ..kd.teacher_cache import HiddenCache, require_space
from ..utils.console import bars_of_parts, console
from .context import Run
from .recipe import RecipeArguments
from .served import served_teacher


logger = logging.getLogger(__name__)

FOLDER = "served_teacher"
TITLE = "rows scored by the teacher's server"
NUMBER_BYTES = 4  # of an id, and of a log-probability


def check_served_teacher(run: Run, tokenizer: Any) -> None:
    """Checks server and tokenizer unless rows are scored already: a run with all of them may need no server.

    Raises:
        ServerError, TokenMismatchError: See :func:`.kd.served_scores.check_server`.
    """
    served = served_teacher(run.settings)
    if served is None or any((run.folder / FOLDER).glob("*.safetensors")):
        return
    from ..kd.served_scores import check_server

    check_server(served, tokenizer, run.settings.kd_teacher_top_k)


def load_served_teacher(run: Run, arguments: RecipeArguments, trainer_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a ``DistillTrainer`` that concern its teacher, when all rows are scored.

    Raises:
        ServerError, TokenMismatchError: If the server is gone, has another model, or reads a row otherwise.
        OSError: If the scores do not fit on the disk.
    """
    from ..generation.chat_rows import Pictures
    from ..kd.served_scores import Scorer, check_server
    from ..kd.served_teacher import KeyedRows, ServedTeacher

    settings, training, collator = run.settings, trainer_kwargs["args"], trainer_kwargs["data_collator"]
    served, top_k, folder = served_teacher(settings), settings.kd_teacher_top_k, run.folder / FOLDER
    datasets, processor = datasets_of(trainer_kwargs), trainer_kwargs.get("processor")
    tokens = sum(map(supervised_tokens, datasets))
    content = f"The teacher's scores, {top_k} likeliest ids of {tokens} supervised tokens"
    require_space(folder, tokens * 2 * top_k * NUMBER_BYTES, content, "lower kd_teacher_top_k")
    pixels = pixel_settings(processor, arguments.model, image_square=settings.image_square)
    rows = KeyedRows(datasets, pixels)
    cache = HiddenCache(
        folder, teacher=f"served {served.name or ''}", hidden_size=2 * top_k, rank=training.process_index
    )
    image_id = getattr(trainer_kwargs["model"].config, "image_token_id", None)
    scorer = Scorer(served, top_k, Pictures(collator.template, processor), image_id)
    teacher = ServedTeacher(scorer, cache, rows)
    missing = [key for key in rows if key not in cache]
    if missing or settings.kd_on_policy > 0:
        check_server(served, trainer_kwargs["tokenizer"], top_k)
        teacher.compare()
    else:
        logger.info("The scores of all rows come from %s; the teacher's server is not used.", folder)
    quiet = training.process_index > 0 or training.disable_tqdm
    mine = missing[training.process_index :: training.world_size]
    with bars_of_parts(None if quiet or not mine else console) as show:
        teacher.score_rows(
            mine,
            stop_if_requested=lambda: run.stop_if_requested("while the teacher's server scored rows"),
            show=lambda done, total: show(TITLE, done, total),
        )
    run.ranks.wait(TITLE)
    cache.refresh()
    if missing or settings.kd_on_policy > 0:
        teacher.compare()  # with the rows of all ranks
    return {"teacher": None, "served": teacher, "pixel_settings": pixels}


def datasets_of(trainer_kwargs: dict[str, Any]) -> list[Any]:
    """The tokenised data sets of training and evaluation."""
    evaluation = trainer_kwargs.get("eval_dataset") or {}
    return [trainer_kwargs["train_dataset"], *(evaluation.values() if isinstance(evaluation, dict) else [evaluation])]


def supervised_tokens(dataset: Any) -> int:
    """The number of predicted tokens, which excludes the first of a row."""
    import pyarrow.compute as pc

    count = 0
    for batch in dataset.select_columns(["labels"]).with_format("arrow").iter(batch_size=1000):
        for labels in batch["labels"].chunks:
            first = pc.list_element(labels.filter(pc.greater(pc.list_value_length(labels), 0)), 0)
            count += np.count_nonzero(labels.flatten().to_numpy() != -100) - np.count_nonzero(first.to_numpy() != -100)
    return count
