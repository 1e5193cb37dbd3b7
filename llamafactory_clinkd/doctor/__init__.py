# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""``clinkd doctor``: what is installed, attached and reachable, and how to mend what is not."""

from pathlib import Path
from typing import Any

from .finding import Finding, finding, findings_table
from .installed import devices, java, packages, versions
from .reachable import clip_weights, endpoint, sending, sentence_model
from .seams import attached_seams, seam_names


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
