# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Stock runs (no ``use_clinkd``) of a model that was saved with positions of its own: they keep them.

Without this, ``do_predict`` with a saved ClinKD model, or DPO on top of it, would silently use stock's positions.
"""

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from ..rope.saved_positions import apply_saved_positions, saved_settings
from ..rope.squared_template import squaring
from .stock_sft import swapped


def fetch_from_other_hub(model_args: Any) -> None:
    """Fetches a model of ModelScope or openMind as stock does a little later, so that what lies beside it is seen."""
    from llamafactory.extras.misc import try_download_model_from_other_hub

    model_args.model_name_or_path = try_download_model_from_other_hub(model_args)


@contextlib.contextmanager
def saved_positions(workflow: ModuleType, model_args: Any) -> Iterator[None]:
    """Inside, the workflow loads models with the positions, and images with the sides, that they were saved with.

    Args:
        workflow: One of LLaMA-Factory's ``train.*.workflow`` modules.
        model_args: Of the recipe; nothing is changed if no settings were saved beside its model or adapters.
    """
    settings = saved_settings(model_args)
    if settings is None:
        yield
        return

    from llamafactory.train import trainer_utils

    get_template = workflow.get_template_and_fix_tokenizer
    if settings.get("image_square"):
        get_template = squaring(get_template)
    with (
        swapped(workflow, "load_model", with_positions(workflow.load_model)),
        swapped(trainer_utils, "load_model", with_positions(trainer_utils.load_model)),  # reference and reward models
        swapped(workflow, "get_template_and_fix_tokenizer", get_template),
    ):
        yield


def with_positions(load_model: Callable[..., Any]) -> Callable[..., Any]:
    """Stock's ``load_model``, followed by the positions saved beside what it loaded."""

    def load(tokenizer: Any, model_args: Any, finetuning_args: Any, *args: Any, **kwargs: Any) -> Any:
        return apply_saved_positions(
            load_model(tokenizer, model_args, finetuning_args, *args, **kwargs), model_args, finetuning_args
        )

    return load
