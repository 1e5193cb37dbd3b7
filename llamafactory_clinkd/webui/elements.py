# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The boxes of the accordion as data: their groups and rows, what each holds, and which of them apply."""

from dataclasses import Field, fields
from typing import Any, Literal, NamedTuple, get_args, get_origin

from ..arguments import PHASES, ClinkdArguments


GROUPS: dict[str, list[list[str]]] = {
    "procedure": [["use_clinkd", "clinkd_phases", "eval_dataset"]],
    "positions": [
        ["rope_variant", "teacher_rope_variant", "rope_sections", "image_square"],
        ["mcg_alpha_h", "mcg_alpha_w", "mcg_gap"],
    ],
    "distillation": [
        ["teacher_name", "ref_model", "ref_model_adapters", "ref_model_quantization_bit"],
        ["kd_method", "kd_alpha", "kd_temperature", "kd_temperature_squared"],
        ["kd_epochs", "kd_noise_std", "kd_cache", "kd_teacher_offload"],
        ["pseudo_label_samples", "pseudo_label_target"],
    ],
    "correction": [
        ["correction_rounds", "correction_threshold", "correction_iou", "correction_outputs"],
        ["correction_similarity", "correction_similarity_model", "correction_scorer", "correction_max_samples"],
        ["corrector", "correction_candidates", "correction_model", "correction_base_url"],
        ["correction_prompt", "correction_concurrency", "correction_max_requests", "correction_token_prices"],
        ["correction_allow_remote"],
    ],
    "selection": [["sasg_candidates", "sasg_mode", "sasg_region"], ["sasg_scorer", "spice_jars"]],
}


class Box(NamedTuple):
    """What a box holds.

    Attributes:
        kind: ``switch``, ``choice``, ``fraction`` (0 to 1), ``number``, ``count`` (an integer or empty), ``text``,
            ``phases``, ``datasets`` or ``models``.
        default: The value that an untouched box has.
        choices: Of a ``choice`` or of ``phases``.
    """

    kind: str
    default: Any
    choices: tuple[str, ...] = ()


def box_of(item: Field) -> Box:
    """The box of a recipe key, from its type and default."""
    if item.name == "clinkd_phases":
        return Box("phases", list(PHASES), PHASES)
    if item.name in ("correction_threshold", "correction_iou"):
        return Box("fraction", item.default)
    if item.type is bool:
        return Box("switch", item.default)
    if get_origin(item.type) is Literal:
        return Box("choice", item.default, get_args(item.type))
    if item.type in (int, float):
        return Box("number", item.default)
    if item.type == int | None:
        return Box("count", "")  # a text box: gradio shows an empty number as 0
    return Box("text", item.default or "")


BOXES: dict[str, Box] = {item.name: box_of(item) for item in fields(ClinkdArguments)} | {
    "eval_dataset": Box("datasets", []),
    "teacher_name": Box("models", None),
    "ref_model": Box("text", ""),
    "ref_model_adapters": Box("text", ""),
    "ref_model_quantization_bit": Box("choice", "none", ("none", "8", "4")),
}


def _names(group: str) -> list[str]:
    return [name for row in GROUPS[group] for name in row]


OF_PREDICTION = [name for name in _names("selection") if name != "spice_jars"]
"""The boxes of phase predict; the last one of their group is phase evaluate's."""

NOT_IN_RECIPE = ("teacher_name",)
"""Boxes that only help to fill in others."""

DRIVERS = (
    "use_clinkd",
    "clinkd_phases",
    "rope_variant",
    "kd_method",
    "correction_similarity",
    "corrector",
    "sasg_scorer",
)
"""Boxes that decide which others apply."""


def inapplicable(values: dict[str, Any]) -> dict[str, str]:
    """Which boxes nothing would read.

    Args:
        values: The values of :data:`DRIVERS` at least.

    Returns:
        Box -> name of the reason, a key of ``reasons`` in the locales.
    """
    phases, method = values["clinkd_phases"] or [], values["kd_method"]
    distils = "distill" in phases and method != "none"
    rules = [
        ("needs_predict", "predict" in phases, ["eval_dataset", *OF_PREDICTION]),
        ("needs_evaluate", "evaluate" in phases, ["spice_jars"]),
        ("needs_image_scorer", values["sasg_scorer"] != "logprob", ["sasg_region"]),
        ("needs_mcg", values["rope_variant"] == "mcg", ["mcg_alpha_h", "mcg_alpha_w"]),
        ("needs_mcg_released", values["rope_variant"] == "mcg_released", ["mcg_gap"]),
        (
            "needs_teacher",
            distils or "pseudo_label" in phases,
            ["teacher_rope_variant", *GROUPS["distillation"][0]],
        ),
        (
            "needs_distill",
            "distill" in phases,
            ["kd_method", "kd_alpha", "kd_temperature", "kd_temperature_squared", "kd_epochs", "kd_noise_std"]
            + ["kd_cache", "kd_teacher_offload", "pseudo_label_target"],
        ),
        ("needs_kd", method != "none", ["kd_alpha", "kd_cache", "kd_teacher_offload"]),
        (
            "needs_pseudo_kd",
            method == "pseudo_kd",
            ["kd_temperature", "kd_temperature_squared", "kd_noise_std"],
        ),
        ("needs_pseudo_label", "pseudo_label" in phases, ["pseudo_label_samples"]),
        ("needs_correct", "correct" in phases, _names("correction")),
        (
            "needs_similarity_model",
            values["correction_similarity"] != "lexical",
            ["correction_similarity_model"],
        ),
        (
            "needs_openai",
            values["corrector"] == "openai",
            ["correction_model", "correction_base_url", "correction_prompt", "correction_concurrency"]
            + ["correction_max_requests", "correction_token_prices", "correction_allow_remote"],
        ),
    ]
    reasons: dict[str, str] = {}
    for reason, applies, names in rules:
        if not applies:
            for name in names:
                reasons.setdefault(name, reason)
    return reasons
