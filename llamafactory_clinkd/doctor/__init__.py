# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd doctor``: what is installed, attached and reachable, and how to mend what is not."""

from pathlib import Path
from typing import Any

from .checks import Finding, attached_seams, devices, finding, findings_table, java, packages, seam_names, versions
from .external_resources import clip_weights, endpoint, sending, sentence_model


__all__ = ["Finding", "examine", "examine_seams", "finding", "findings_table", "read_recipe", "sending"]


def examine(recipe: str | Path | None = None) -> list[Finding]:
    """Everything that a recipe may need. Imports LLaMA-Factory, so it takes some seconds.

    Args:
        recipe: A YAML file: its scorer, similarity and server are looked at instead of the defaults, and what it would
            send, and where, is said too.

    Raises:
        OSError: If the recipe cannot be read.
    """
    keys = read_recipe(recipe) if recipe is not None else {}
    found = [*versions(), *attached_seams(), *seam_names(), *packages(), java(), clip_weights(keys)]
    found += [sentence_model(keys), devices(), endpoint(keys)]
    return found if recipe is None else [*found, sending(keys)]


def examine_seams() -> list[Finding]:
    """The seams alone: whether each hook went through, and whether each name is there; for CI."""
    return [*versions(), *attached_seams(), *seam_names()]


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The keys of a YAML recipe."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(path)) or {}
