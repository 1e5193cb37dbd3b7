# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd doctor``: what is installed, attached and available, and how to fix what is not."""

from pathlib import Path
from typing import Any

from .checks import (
    CheckResult,
    attached_seams,
    devices,
    java,
    known_problems,
    packages,
    results_table,
    seam_names,
    versions,
)
from .external_resources import clip_weights, corrector_server, sending, sentence_model
from .recipe_needs import closing_line, correction_libraries, for_recipe, is_ready, precision


__all__ = [
    "CheckResult",
    "check_all",
    "check_seams",
    "closing_line",
    "is_ready",
    "read_recipe",
    "results_table",
    "sending",
]


def check_all(recipe: str | Path | None = None) -> list[CheckResult]:
    """Checks everything that a recipe may need. Imports LLaMA-Factory, so it takes some seconds.

    With a YAML ``recipe``, checks its scorer, similarity, server and precision, marks what it does not use, and also
    reports the text that it would send, and where.

    Raises:
        OSError: If the recipe cannot be read.
    """
    keys = read_recipe(recipe) if recipe is not None else {}
    results = [*check_seams(), *known_problems(), *packages(), java()]
    results += [clip_weights(keys), sentence_model(keys), devices(), corrector_server(keys)]
    if recipe is None:
        return results
    return for_recipe([*results, *precision(keys), *correction_libraries(keys), sending(keys)], keys)


def check_seams() -> list[CheckResult]:
    """Checks only the seams of LLaMA-Factory, for CI: versions, hooks and the names that the plugin uses."""
    return [*versions(), *attached_seams(), *seam_names()]


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The keys of a YAML recipe; ValueError for a file that is none."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        keys = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a recipe in YAML: {' '.join(str(error).split())}") from error
    if not isinstance(keys, dict):
        raise ValueError(f"{path} is not a recipe: it should hold keys and values, such as `stage: sft`.")
    return keys
