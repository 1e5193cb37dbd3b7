# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Ranges of ClinKD's keys, and conflicts between them and with LLaMA-Factory's keys of the same argument group."""

from typing import Any

from .utils.value_checks import bad_value


RANGES: dict[tuple[str, ...], dict[str, Any]] = {
    ("mcg_alpha_h", "mcg_alpha_w", "mcg_gap"): {"minimum": 1, "maximum": 10_000, "integer": True},
    (
        "pseudo_label_samples", "correction_rounds", "correction_candidates", "correction_concurrency",
        "sasg_candidates", "correction_max_samples", "correction_max_requests", "generation_concurrency",
        "kd_teacher_top_k",
    ): {"minimum": 1, "maximum": 10**9, "integer": True},
    ("kd_alpha", "kd_noise_std"): {"maximum": 10_000},
    # Outside, logits / T or T^2 leave the range in which a softmax still differs from a constant.
    ("kd_temperature",): {"minimum": 0.001, "maximum": 1000},
    ("kd_epochs",): {"maximum": 100_000, "open_minimum": True},
    ("correction_threshold", "correction_iou", "kd_on_policy", "kd_beta"): {"maximum": 1},
    ("kd_rollout_temperature",): {"maximum": 1000},
    ("kd_rollout_top_p",): {"maximum": 1, "open_minimum": True},
    ("kd_rollout_every",): {"minimum": 1, "maximum": 10_000, "integer": True},
}  # fmt: skip
OPTIONAL = ("correction_max_samples", "correction_max_requests", "kd_beta")


def check_conflicts(settings: Any) -> None:
    """Raises ``ValueError`` for ClinKD keys, in range each, that do not go together; the message names the fix."""
    distils = "distill" in settings.clinkd_phases and settings.kd_method != "none"
    teacher = getattr(settings, "ref_model", None) or getattr(settings, "ref_model_adapters", None)
    labels = "pseudo_label" in settings.clinkd_phases and not answers_by_server(settings, "pseudo_label")
    served = settings.kd_teacher_base_url is not None
    if ((distils and not served) or labels) and not teacher:
        raise ValueError(
            f"`ref_model` is missing: the phases {settings.clinkd_phases} with `kd_method: {settings.kd_method}` need "
            "a teacher. Set `ref_model` (and `ref_model_adapters`, `ref_model_quantization_bit`) to its name or "
            "path, or take pseudo_label and distill out of `clinkd_phases`."
        )
    rewords = settings.corrector == "teacher" and "correct" in settings.clinkd_phases
    _check_served_teacher(settings, distils, uses_local=labels or rewords)
    if settings.corrector == "teacher" and "correct" in settings.clinkd_phases and not teacher:
        raise ValueError("`corrector: teacher` needs a teacher. Set `ref_model`, or `corrector: offline`.")
    if settings.pseudo_label_target == "pseudo_label" and "pseudo_label" not in settings.clinkd_phases:
        raise ValueError(
            "`pseudo_label_target: pseudo_label` needs the teacher's answers, but `clinkd_phases` is "
            f"{settings.clinkd_phases}. Add pseudo_label to it, or set `pseudo_label_target: ground_truth`."
        )
    if settings.kd_method == "vkd" and distils and getattr(settings, "use_badam", False):
        allowed = "false with `kd_method: vkd`, whose projection beside the model it would leave out"
        raise bad_value("use_badam", "true", allowed, "set one of them")
    bits = getattr(settings, "ref_model_quantization_bit", None)
    if settings.kd_teacher_offload and bits is not None:
        allowed = "no value with `kd_teacher_offload: true`, because quantised weights stay on the GPU"
        raise bad_value("ref_model_quantization_bit", bits, allowed, "remove one of them")
    _check_on_policy(settings, distils)
    _check_server(settings)
    scorer = settings.correction_scorer
    if scorer in ("logprob", "consensus") or str(scorer).endswith(".json"):
        raise bad_value("correction_scorer", scorer, "an open_clip model", "name one, or remove the key")
    weightless = settings.kd_method == "pseudo_kd" and settings.kd_alpha == settings.kd_on_policy == 0
    if weightless and distils and settings.kd_noise_std > 0:
        raise ValueError("`kd_noise_std` has no effect with `kd_alpha: 0`. Raise `kd_alpha` or remove the noise.")
    for key, default, variant in (
        ("mcg_alpha_h", 1, "mcg"),
        ("mcg_alpha_w", 1, "mcg"),
        ("mcg_gap", 2, "mcg_released"),
    ):
        if getattr(settings, key) != default and settings.rope_variant != variant:
            raise ValueError(
                f"`{key}: {getattr(settings, key)}` applies to `rope_variant: {variant}` only, found "
                f"`rope_variant: {settings.rope_variant}`. Change one of them."
            )
    for switch in ("use_mca", "use_hyper_parallel", "use_dft_loss", "use_asft_loss", "use_eaft_loss"):
        if getattr(settings, switch, False):
            raise ValueError(f"`{switch}: true` replaces the loss or engine that ClinKD extends. Set one of them.")
    if getattr(settings, "stage", "sft") != "sft":
        raise bad_value("stage", settings.stage, "sft with `use_clinkd: true`", "set `stage: sft`")


def answers_by_server(settings: Any, phase: str) -> bool:
    """Whether ``generation_base_url`` generates the answers of a phase."""
    return settings.generation_base_url is not None and phase in settings.generation_phases


def _check_server(settings: Any) -> None:
    for key in ("model", "phases", "concurrency", "allow_remote", "allow_http"):
        found, field = getattr(settings, f"generation_{key}"), type(settings).__dataclass_fields__[f"generation_{key}"]
        if settings.generation_base_url is None and found not in (field.default, [field.default]):
            fix = "set it, or remove the key"
            raise bad_value(f"generation_{key}", found, "no value without `generation_base_url`", fix)
    if answers_by_server(settings, "correct") and settings.correction_outputs == "forward":
        allowed = "generate where `generation_phases` contains correct"
        raise bad_value("correction_outputs", "forward", allowed, "set one of them")


def _check_served_teacher(settings: Any, distils: bool, *, uses_local: bool) -> None:
    """Conflicts of ``kd_teacher_base_url``; ``uses_local`` is whether another phase uses ``ref_model``."""
    if settings.kd_teacher_base_url is None:
        for key in ("model", "top_k", "allow_remote", "allow_http"):
            name = f"kd_teacher_{key}"
            if getattr(settings, name) != type(settings).__dataclass_fields__[name].default:
                fix = "set it, or remove the key"
                raise bad_value(name, getattr(settings, name), "no value without `kd_teacher_base_url`", fix)
        return
    with_server = "with `kd_teacher_base_url`"
    allowed = {
        "kd_method": ("pseudo_kd", f"pseudo_kd {with_server}, which gives no hidden states"),
        "kd_temperature": (1, f"1 {with_server}: the logits behind the server's tail are unknown"),
        "kd_noise_std": (0, f"0 {with_server}: the logits behind the server's tail are unknown"),
        "kd_cache": ("off", f"off {with_server}, whose log-probabilities are always cached"),
        "kd_teacher_offload": (False, f"false {with_server}: no teacher is loaded"),
        "kd_teacher_prompt": (None, f"no value {with_server}"),
    }
    local = ("ref_model", "ref_model_adapters", "ref_model_quantization_bit")
    if not uses_local:
        allowed |= dict.fromkeys(local, (None, f"no value {with_server}, which is the teacher"))
    if not distils:
        raise bad_value(
            "kd_teacher_base_url", settings.kd_teacher_base_url, "no value without the phase distill", "remove the key"
        )
    for key, (value, expected) in allowed.items():
        if (getattr(settings, key, None) or None) != (value or None):
            raise bad_value(key, getattr(settings, key), expected, "change one of them")


def _check_on_policy(settings: Any, distils: bool) -> None:
    if settings.kd_beta is not None and settings.kd_divergence != "jsd":
        raise bad_value("kd_beta", settings.kd_beta, "no value without `kd_divergence: jsd`", "change one of them")
    if settings.kd_on_policy > 0:
        for key, needed in (("kd_method", "pseudo_kd"), ("kd_cache", "off")):
            if getattr(settings, key) != needed:
                allowed = f"{needed} with `kd_on_policy`, whose teacher judges new answers at every step"
                raise bad_value(key, getattr(settings, key), allowed, "set one of them")
    temperature, top_p = settings.kd_rollout_temperature, settings.kd_rollout_top_p
    if 0 < temperature < 0.001:
        raise bad_value("kd_rollout_temperature", temperature, "0, or at least 0.001", "set 0 for the likeliest token")
    if temperature == 0 and top_p < 1:
        allowed = "no value with `kd_rollout_temperature: 0`, which takes the likeliest token"
        raise bad_value("kd_rollout_top_p", top_p, allowed, "remove one of them")
    if settings.kd_teacher_prompt is not None:
        if settings.kd_on_policy < 1:
            allowed = "1 with `kd_teacher_prompt`, which would hand the teacher the very answer that it is to predict"
            raise bad_value("kd_on_policy", settings.kd_on_policy, allowed, "set it, or remove the prompt")
        if settings.kd_teacher_prompt.count("{answer}") != 1:
            expected, example = "a text with one {answer} where the ground truth goes", "A correct answer is: {answer}"
            raise bad_value("kd_teacher_prompt", settings.kd_teacher_prompt, expected, example)
    uses = {"kd_divergence": "forward_kl", "kd_on_policy": 0.0}
    for key, default in uses.items():
        if getattr(settings, key) != default and not (distils and settings.kd_method == "pseudo_kd"):
            raise bad_value(
                key, getattr(settings, key), f"{default} without the phase distill and `kd_method: pseudo_kd`",
                "remove it",
            )  # fmt: skip
    for key in ("kd_rollout_temperature", "kd_rollout_top_p", "kd_rollout_every"):
        if settings.kd_on_policy == 0 and getattr(settings, key) != type(settings).__dataclass_fields__[key].default:
            raise bad_value(
                key, getattr(settings, key), "no value without `kd_on_policy`", "set it, or remove the key"
            )
