# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a recipe costs beside memory: steps, answers generated, requests to a server, disk."""

from math import ceil
from typing import Any

from .memory import trained_parameters
from .recipe_spec import Facts


CACHE_HEADER = 160
"""Bytes of a sample's entry in the teacher cache beside its states (``kd.cache.HEADER_BYTES_PER_SAMPLE``)."""


def counts_of(facts: Facts) -> dict[str, Any]:
    """Counts of the whole recipe.

    Returns:
        ``steps`` (phase -> optimiser steps), ``generations`` (phase -> answers), ``api_calls_at_most``,
        ``cache_bytes``, ``checkpoint_bytes`` (of one checkpoint). Corrections are counted as if every answer were
        wrong: how many are is not known before.
    """
    keys, phases = facts.keys, facts.phases
    labelled = min(keys["pseudo_label_samples"], facts.train_rows)
    distilled = labelled if "pseudo_label" in phases else facts.train_rows
    judged = min(keys["correction_max_samples"] or facts.train_rows, facts.train_rows)
    between = keys["correction_rounds"] - 1 if "correct" in phases else 0
    generates = keys["correction_outputs"] == "generate"
    generations = {
        "pseudo_label": labelled * ("pseudo_label" in phases),
        "correct": between * judged * generates,
        "predict": facts.eval_rows * keys["sasg_candidates"] * ("predict" in phases),
    }
    asked = between * min(judged, keys["correction_max_requests"] or judged) if keys["corrector"] == "openai" else 0
    steps = {}
    if "distill" in phases:
        steps["distill"] = ceil(_steps(facts, distilled) * keys["kd_epochs"])
    if "correct" in phases:
        steps["correct"] = _steps(facts, facts.train_rows) + between * _steps(facts, facts.train_rows + judged)
    return {
        "steps": steps,
        "generations": generations,
        "api_calls_at_most": asked,
        "cache_bytes": _cache_bytes(facts, distilled) if facts.distils and keys["kd_cache"] == "hidden" else 0,
        "checkpoint_bytes": _checkpoint_bytes(facts) if steps else 0,
    }


def _steps(facts: Facts, rows: int) -> int:
    return ceil(rows / (facts.batch * facts.accumulation * facts.gpus))


def _cache_bytes(facts: Facts, rows: int) -> int:
    """The teacher's hidden states of every supervised token, and its head once."""
    each = 2 if facts.half else 4
    states = rows * (facts.answer_tokens * facts.teacher.hidden * each + CACHE_HEADER)
    return states + facts.teacher.embedding_parameters * each


def _checkpoint_bytes(facts: Facts) -> int:
    """One checkpoint: what was saved of the model, and two fp32 moments (ZeRO: with fp32 weights)."""
    trained, each = trained_parameters(facts), 2 if facts.half and facts.zero_stage else 4
    frozen = 0 if facts.finetuning == "lora" else (2 if facts.half else 4) * (facts.student.parameters - trained)
    return frozen + each * trained + (12 if facts.zero_stage else 8) * trained
