# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The recipe of one run: the scale's base file, the row's difference, the seed and the run's folder.

Paths in the files start with ``runs/reproduce``, or with the package for the demo's models. A recipe is hashed with
these paths, so its hash is the same on every machine and in every folder; this machine's paths are filled in last.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.io import content_hash, write_text
from .table_rows import ROWS, Row


RECIPES_DIR = Path(__file__).parent / "recipes"
DEMO = Path(__file__).parents[1] / "demo"
ROOT = "runs/reproduce"  # the first part of the recipes' paths; ``--directory`` replaces it
MODELS = "llamafactory_clinkd/demo/models/"  # the first part of the paths of the miniature's models


@dataclass(frozen=True)
class Plan:
    """One run that a table needs."""

    row: Row
    seed: int
    scale: str  # ``paper`` or ``mini``
    keys: dict[str, Any]  # the recipe with the paths of the files; only the data set's keys for a computed row
    hash: str  # of the recipe, the benchmark's data and models, and the run that it uses
    source: "Plan | None" = None  # the run whose model it predicts with

    @property
    def name(self) -> str:
        """The name of its folder and its result."""
        return run_name(self.row, self.seed)


def run_name(row: Row, seed: int) -> str:
    """``sft-seed1``; only the row's name if no seed changes it."""
    return f"{row.name}-seed{seed}" if row.seeded else row.name


def plan_run(row: Row, seed: int, scale: str, benchmark: Any = None) -> Plan:
    """The run of a row with a seed.

    Raises:
        ValueError: If the row cannot be run at this scale.
    """
    if scale not in row.scales:
        raise ValueError(f"Row {row.name} is for the scales {', '.join(row.scales)}, not for {scale}.")
    source = plan_run(ROWS[row.uses], seed, scale, benchmark) if row.uses else None
    keys = _recipe(row, seed, scale)
    if source is not None:
        keys["model_name_or_path"] = source.keys["output_dir"]
    described = [keys, benchmark, source.hash if source else None]
    return Plan(row, seed, scale, keys, content_hash(described), source)


def _recipe(row: Row, seed: int, scale: str) -> dict[str, Any]:
    folder = RECIPES_DIR / scale
    keys = read_recipe(folder / "base.yaml")
    if row.computed:
        keys = {key: keys[key] for key in ("dataset_dir", "dataset", "eval_dataset")}
    else:
        if row.uses:
            keys |= read_recipe(folder / f"{row.uses}.yaml")
        keys |= read_recipe(folder / f"{row.name}.yaml")
        keys["seed"] = seed if row.seeded else 1
        keys["output_dir"] = "/".join([ROOT, scale, run_name(row, seed)])
    return {key: value for key, value in keys.items() if value is not None}


def read_recipe(path: Path) -> dict[str, Any]:
    """The keys of a YAML file; a file of comments has none."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(path)) or {}


def models_of(plan: Plan) -> set[str]:
    """The demo's models that a run and its source start from: ``base``, ``teacher``, ``scorer``."""
    values = [value for value in plan.keys.values() if isinstance(value, str)]
    named = {value.removeprefix(MODELS) for value in values if value.startswith(MODELS)}
    return named | models_of(plan.source) if plan.source else named


def local_keys(plan: Plan, directory: Path) -> dict[str, Any]:
    """The recipe with this machine's paths: of ``directory``, and of this package's models and configurations."""
    shipped = {MODELS: DEMO / "models", "examples/deepspeed/": RECIPES_DIR / "deepspeed"}
    folders = {f"{ROOT}/": directory, **shipped}

    def local(value: Any) -> Any:
        for prefix, folder in folders.items():
            if isinstance(value, str) and value.startswith(prefix):
                return str(folder / value.removeprefix(prefix))
        return value

    return {key: local(value) for key, value in plan.keys.items()}


def recipe_text(plan: Plan, directory: Path) -> str:
    """The recipe as YAML for ``llamafactory-cli train``, with a header that names its sources."""
    import yaml

    keys = local_keys(plan, directory)
    path = f"{keys['output_dir']}/recipe.yaml"
    files = " + ".join(f"{name}.yaml" for name in ("base", plan.row.uses, plan.row.name) if name)
    lines = [
        f"### {plan.row.title}, seed {plan.seed}: {files} of recipes/{plan.scale}",
        f"### llamafactory-cli train {path}",
        hash_line(plan),
        "",
    ]
    if plan.source is not None:
        lines.insert(2, f"### It predicts with the model of {plan.source.name}, which must be trained first.")
    return "\n".join(lines) + yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)


def hash_line(plan: Plan) -> str:
    """The line of a recipe that identifies its run."""
    return f"### hash {plan.hash}"


def write_recipe(plan: Plan, directory: Path) -> Path:
    """Writes ``recipe.yaml`` into the run's folder and returns it."""
    path = run_folder(plan, directory) / "recipe.yaml"
    write_text(path, recipe_text(plan, directory))
    return path


def run_folder(plan: Plan, directory: Path) -> Path:
    """Where the run writes."""
    return directory / plan.scale / plan.name
