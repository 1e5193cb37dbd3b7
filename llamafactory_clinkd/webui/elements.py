# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The elements of the accordion as data: groups and rows, the kind of each element, and which of them are unused."""

from dataclasses import Field, fields
from typing import Any, Literal, NamedTuple, get_args, get_origin

from ..arguments import GENERATING_PHASES, PHASES, ClinkdArguments


TAB = "clinkd"  # under which LLaMA Board's manager registers the elements
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
        ["kd_divergence", "kd_beta", "kd_on_policy", "kd_teacher_prompt"],
        ["kd_rollout_temperature", "kd_rollout_top_p", "kd_rollout_every"],
        ["kd_teacher_base_url", "kd_teacher_model", "kd_teacher_top_k"],
        ["kd_teacher_allow_remote", "kd_teacher_allow_http"],
        ["pseudo_label_samples", "pseudo_label_target"],
    ],
    "correction": [
        ["correction_rounds", "correction_threshold", "correction_iou", "correction_outputs"],
        ["correction_similarity", "correction_similarity_model", "correction_scorer", "correction_max_samples"],
        ["corrector", "correction_candidates", "correction_model", "correction_base_url"],
        ["correction_prompt", "correction_concurrency", "correction_max_requests", "correction_token_prices"],
        ["correction_allow_remote", "correction_allow_http"],
    ],
    "generation": [
        ["generation_base_url", "generation_model", "generation_phases", "generation_concurrency"],
        ["generation_allow_remote", "generation_allow_http"],
    ],
    "selection": [["sasg_candidates", "sasg_mode", "sasg_region"], ["sasg_scorer", "spice_jars"]],
}


class Element(NamedTuple):
    """An input of the accordion."""

    kind: str  # switch, choice, fraction (0 to 1), number, count (a number or empty), text, phases, datasets, models
    default: Any
    choices: tuple[str, ...] = ()


def _element_of(field: Field) -> Element:
    """The element of a recipe key, from its type and default."""
    if field.name == "clinkd_phases":
        return Element("phases", list(PHASES), PHASES)
    if field.name == "generation_phases":
        return Element("phases", [field.default], GENERATING_PHASES)
    if field.name in ("correction_threshold", "correction_iou", "kd_on_policy"):
        return Element("fraction", field.default)
    if field.type is bool:
        return Element("switch", field.default)
    if get_origin(field.type) is Literal:
        return Element("choice", field.default, get_args(field.type))
    if field.type in (int, float):
        return Element("number", field.default)
    if field.type in (int | None, float | None):
        return Element("count", "")  # a text box: gradio shows an empty number as 0
    return Element("text", field.default or "")


ELEMENTS: dict[str, Element] = {field.name: _element_of(field) for field in fields(ClinkdArguments)} | {
    "eval_dataset": Element("datasets", []),
    "teacher_name": Element("models", None),  # only fills in `ref_model`
    "ref_model": Element("text", ""),
    "ref_model_adapters": Element("text", ""),
    "ref_model_quantization_bit": Element("choice", "none", ("none", "8", "4")),
}
RECIPE_KEYS = tuple(name for name in ELEMENTS if name != "teacher_name")
DRIVERS = (  # the elements that decide which others are unused
    "use_clinkd", "clinkd_phases", "rope_variant", "kd_method", "kd_divergence", "kd_on_policy",
    "correction_similarity", "corrector", "sasg_scorer", "generation_base_url", "kd_teacher_base_url",
)  # fmt: skip


def unused_elements(values: dict[str, Any]) -> dict[str, str]:
    """Unused element -> the reason, a key of ``reasons`` in the locales, or empty if no chosen phase uses it.

    ``values`` has :data:`DRIVERS` at least.
    """
    phases, method = values["clinkd_phases"] or [], values["kd_method"]
    kd = ["kd_alpha", "kd_cache", "kd_teacher_offload"]
    rollouts = ["kd_teacher_prompt", "kd_rollout_temperature", "kd_rollout_top_p", "kd_rollout_every"]
    pseudo_kd = ["kd_temperature", "kd_temperature_squared", "kd_noise_std", "kd_divergence", "kd_beta"]
    teacher_server = ["kd_teacher_model", "kd_teacher_top_k", "kd_teacher_allow_remote", "kd_teacher_allow_http"]
    pseudo_kd += ["kd_on_policy", *rollouts, "kd_teacher_base_url", *teacher_server]
    server = ["correction_model", "correction_base_url", *GROUPS["correction"][3], *GROUPS["correction"][4]]
    prediction = ["sasg_candidates", "sasg_mode", "sasg_region", "sasg_scorer"]
    rewords = "correct" in phases and values["corrector"] == "teacher"
    server = [name for name in server if not (rewords and name == "correction_prompt")]
    needs_teacher = rewords or "pseudo_label" in phases or ("distill" in phases and method != "none")
    rules = [
        ("", "predict" in phases, ["eval_dataset", *prediction]),
        ("", "evaluate" in phases, ["spice_jars"]),
        ("needs_image_scorer", values["sasg_scorer"] not in ("logprob", "consensus"), ["sasg_region"]),
        ("needs_mcg", values["rope_variant"] == "mcg", ["mcg_alpha_h", "mcg_alpha_w"]),
        ("needs_mcg_released", values["rope_variant"] == "mcg_released", ["mcg_gap"]),
        ("", needs_teacher, ["teacher_rope_variant", *GROUPS["distillation"][0]]),
        ("", "distill" in phases, ["kd_method", "kd_epochs", *kd, *pseudo_kd, "pseudo_label_target"]),
        ("needs_kd", method != "none", kd),
        ("needs_pseudo_kd", method == "pseudo_kd", pseudo_kd),
        ("needs_jsd", values["kd_divergence"] == "jsd", ["kd_beta"]),
        ("needs_generation_server", bool(values["kd_teacher_base_url"]), teacher_server),
        ("needs_on_policy", (values["kd_on_policy"] or 0) > 0, rollouts),
        ("", "pseudo_label" in phases, ["pseudo_label_samples"]),
        ("", "correct" in phases, [name for row in GROUPS["correction"] for name in row]),
        ("needs_similarity_model", values["correction_similarity"] != "lexical", ["correction_similarity_model"]),
        ("needs_openai", values["corrector"] == "openai", server),
    ]
    served = [name for row in GROUPS["generation"] for name in row]
    generates = not set(GENERATING_PHASES).isdisjoint(phases)
    rules += [
        ("", generates, served),
        ("needs_generation_server", bool(values["generation_base_url"]), served[1:]),
    ]
    reasons: dict[str, str] = {}
    for reason, is_met, names in rules:
        if not is_met:
            reasons = dict.fromkeys(names, reason) | reasons  # the first rule's reason wins
    return reasons
