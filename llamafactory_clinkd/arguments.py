# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The YAML keys of ClinKD: one dataclass with help, ranges and conflicts, in LLaMA-Factory's style.

:mod:`llamafactory_clinkd.attach` mixes ``ClinkdArguments`` into LLaMA-Factory's ``FinetuningArguments``, so each field
is a recipe key and a ``llamafactory-cli train`` option. This module imports neither torch nor LLaMA-Factory.
"""

import math
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from .key_conflicts import OPTIONAL, RANGES, check_conflicts
from .utils.clip import BIOMED_CLIP
from .utils.value_checks import bad_value, did_you_mean, parse_numbers, require_range, require_type, split_list


PHASES = ("pseudo_label", "distill", "correct", "predict", "evaluate")
GENERATING_PHASES = ("pseudo_label", "correct", "predict")
TRAINING_PHASES = ("distill", "correct")
OPTIONS_WRITTEN: ContextVar[frozenset[str] | None] = ContextVar("options_written", default=None)
"""The options of a command line while it is parsed: argparse passes every default as if it had been written."""


def check_data_keys(data: Any) -> None:
    """Refuses keys of ``DataArguments`` under which a phase cannot see the rows behind the tokens; ``ValueError``."""
    for key, off in (("streaming", "false"), ("tokenized_path", "no path")):
        if getattr(data, key):
            allowed = f"{off} with `use_clinkd: true`, whose phases choose, relabel and correct rows by their number"
            raise bad_value(key, getattr(data, key), allowed, "remove the key; phases tokenise their rows themselves")


def _key(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


PARSED = ("clinkd_phases", "generation_phases", "rope_sections", "correction_token_prices")


@dataclass
class ClinkdArguments:
    r"""Arguments pertaining to ClinKD.

    ``clinkd_written`` (not a field) holds the names of the keys that were written, whatever their value.
    """

    use_clinkd: bool = _key(False, "Whether or not to run ClinKD's phases. Every other key of this group needs it.")
    clinkd_phases: str = _key(
        ",".join(PHASES), f"The phases to run: any subset of {', '.join(PHASES)}, in this order, separated by commas."
    )
    rope_variant: Literal["mrope", "mcg", "mcg_released", "rope_2d", "rope_mixed"] = _key(
        "mcg",
        "Rotary positions of the student: mrope (LLaMA-Factory's), mcg (the paper's Eq. 4), mcg_released (the "
        "authors' code), rope_2d (Eq. 7-11 without the shift), rope_mixed (learnable frequencies in vision).",
    )
    teacher_rope_variant: Literal["mrope", "mcg", "mcg_released", "rope_2d", "rope_mixed"] = _key(
        "mrope", "Rotary positions of the teacher. A teacher saved with a clinkd_config.json keeps the saved ones."
    )
    mcg_alpha_h: int = _key(1, "MCG-RoPE's interval between image rows (Eq. 2), >= 1.")
    mcg_alpha_w: int = _key(1, "MCG-RoPE's interval between image columns (Eq. 2), >= 1.")
    mcg_gap: int = _key(
        2, "Gap at each text/image boundary, only for rope_variant mcg_released; 1 equals LLaMA-Factory's positions."
    )
    rope_sections: str | None = _key(
        None, "Rotary frequency pairs for time, height and width, e.g. 0,32,32. Default: the model's own."
    )
    image_square: bool = _key(True, "Whether or not to resample images to width = height (section 4.3 of the paper).")
    kd_method: Literal["pseudo_kd", "vkd", "none"] = _key(
        "pseudo_kd", "Distillation loss: pseudo_kd (Eq. 12-16), vkd (orthogonal feature projection) or none (CE only)."
    )
    kd_alpha: float = _key(0.5, "Weight of the distillation term in Eq. 16, >= 0.")
    kd_temperature: float = _key(0.5, "Temperature T of Eq. 13-15, 0.001 to 1000.")
    kd_temperature_squared: bool = _key(True, "Whether or not to multiply the KL divergence by T^2 as in Eq. 13.")
    kd_noise_std: float = _key(0.0, "Standard deviation of the Gaussian noise on the logits in Eq. 14, >= 0.")
    kd_divergence: Literal["forward_kl", "reverse_kl", "jsd"] = _key(
        "forward_kl",
        "Divergence between teacher and student: forward_kl (Eq. 13), reverse_kl, or jsd (the generalised "
        "Jensen-Shannon divergence of GKD, with kd_beta).",
    )
    kd_beta: float | None = _key(
        None, "Weight of the teacher in the mixture of kd_divergence jsd: 0 is forward, 1 reverse KL. Default: 0.5."
    )
    kd_on_policy: float = _key(
        0.0,
        "Share of the batches of the distill phase whose answers the student samples itself (lambda of GKD), 0 to 1. "
        "Their loss is the divergence alone. The answers have at most max_new_tokens tokens.",
    )
    kd_rollout_temperature: float = _key(1.0, "Temperature of the sampled answers, >= 0; 0 takes the likeliest token.")
    kd_rollout_top_p: float = _key(1.0, "Nucleus of the sampled answers, > 0 and <= 1.")
    kd_rollout_every: int = _key(
        1, "Optimizer steps that share one round of sampled answers, generated in one batch, >= 1."
    )
    kd_teacher_prompt: str | None = _key(
        None,
        "Text at the end of the question that only the teacher reads, with {answer} for the ground truth. It needs "
        "kd_on_policy 1. Default: the teacher reads the student's prompt.",
    )
    kd_epochs: float = _key(2.0, "Epochs of the distill phase, > 0.")
    kd_cache: Literal["off", "hidden"] = _key(
        "off",
        "hidden: cache the teacher's final hidden states on disk in the first epoch; afterwards only its output head "
        "stays in memory.",
    )
    kd_teacher_offload: bool = _key(
        False,
        "Whether or not to keep the teacher's weights in CPU memory and move each layer to the GPU for its forward "
        "pass, in the distill phase.",
    )
    kd_teacher_base_url: str | None = _key(
        None,
        "Base URL of a vLLM server (--enable-scale-out) whose log-probabilities are the teacher of the distill phase, "
        "in place of ref_model. It needs kd_temperature 1. The API key is read from OPENAI_API_KEY.",
    )
    kd_teacher_model: str | None = _key(None, "Name of the model at that server. Default: the only one.")
    kd_teacher_top_k: int = _key(
        20,
        "Likeliest tokens of each position that the server's teacher gives, >= 1; the others are one class. Above 20 "
        "the server needs --max-logprobs.",
    )
    kd_teacher_allow_remote: bool = _key(
        False, "Whether or not rows with their medical pictures may be sent to a server that is not on this machine."
    )
    kd_teacher_allow_http: bool = _key(
        False, "Whether or not that server may be reached by plain http, which machines on the way can read."
    )
    pseudo_label_samples: int = _key(
        30000, "Size of the random, seeded subset that the teacher labels and the student is distilled on."
    )
    pseudo_label_target: Literal["ground_truth", "pseudo_label"] = _key(
        "ground_truth", "Target of the cross-entropy in the distill phase: ground_truth (Eq. 12) or pseudo_label."
    )
    correction_rounds: int = _key(2, "Rounds (epochs) of supervised fine-tuning in the correct phase, >= 1.")
    correction_threshold: float = _key(
        0.8, "Answers whose similarity to the ground truth is below this are corrected, 0 to 1."
    )
    correction_iou: float = _key(0.5, "Groundings whose IoU with the ground truth is below this are wrong, 0 to 1.")
    correction_outputs: Literal["generate", "forward"] = _key(
        "generate",
        "Answers to judge: generate (generated after a round) or forward (argmax of the training logits, at no extra "
        "cost).",
    )
    correction_similarity: Literal["sentence", "clip", "lexical"] = _key(
        "sentence", "Text similarity: sentence (sentence-transformers), clip or lexical."
    )
    correction_similarity_model: str | None = _key(
        None, "Name or path of the similarity model. Default for sentence: the packaged all-MiniLM-L6-v2."
    )
    corrector: Literal["offline", "openai", "teacher"] = _key(
        "offline",
        "Corrector of wrong answers: offline (rules, no network), openai (any OpenAI-compatible server) or teacher "
        "(ref_model, loaded beside the student for each correction).",
    )
    correction_model: str = _key("gpt-4o", "Name of the openai corrector's model.")
    correction_base_url: str | None = _key(
        None, "Base URL of the OpenAI-compatible server. The API key is read from OPENAI_API_KEY."
    )
    correction_candidates: int = _key(3, "Rewordings requested for each answer, >= 1.")
    correction_concurrency: int = _key(16, "Number of concurrent requests, >= 1.")
    correction_max_samples: int | None = _key(
        None, "Judge only a random, seeded subset of this many rows per round. Default: all rows."
    )
    correction_max_requests: int | None = _key(
        None, "Limit of requests per round; further rows keep the ground truth. Default: no limit."
    )
    correction_token_prices: str | None = _key(
        None,
        "Prices of a million prompt tokens and a million completion tokens, e.g. 2.50,10.00. The log and the summary "
        "of each round then include its cost. Default: tokens only.",
    )
    correction_prompt: str | None = _key(
        None, "Path of a prompt template that replaces the built-in one of openai and teacher."
    )
    correction_scorer: str | None = _key(
        None,
        "open_clip model (see sasg_scorer) whose score of image and rewording is added to the text similarity when "
        "the best rewording is chosen. Default: similarity alone.",
    )
    correction_allow_remote: bool = _key(
        False, "Whether or not medical text may be sent to a server that is not on this machine."
    )
    correction_allow_http: bool = _key(
        False, "Whether or not that server may be reached by plain http, which machines on the way can read."
    )
    sasg_candidates: int = _key(3, "Answers generated for each question, >= 1.")
    sasg_mode: Literal["beam", "sample"] = _key(
        "beam",
        "Generation of the candidates: beam (section 4.3), or sample (the greedy answer, then seeded samples; one "
        "candidate alone is a sample).",
    )
    sasg_scorer: str = _key(
        BIOMED_CLIP,
        "open_clip model that ranks the candidates: a name, name@pretrained, hf-hub:..., or a local folder. logprob "
        "ranks by the model's own log-probability, consensus by the similarity to the other candidates, a *.json file "
        "of clinkd select --fit by a weighted sum.",
    )
    sasg_region: Literal["auto", "image", "crop", "highlight", "blur", "mean"] = _key(
        "auto",
        "Region that the scorer compares with the text: image (the whole image), or the candidate's box, else the "
        "question's box, else the whole image: crop, highlight (box outlined), blur (outside of it blurred), mean (of "
        "the three), or auto (the one that validated best).",
    )
    generation_base_url: str | None = _key(
        None,
        "Base URL of an OpenAI-compatible server (vLLM, SGLang, ...) that generates the answers of generation_phases. "
        "The API key is read from OPENAI_API_KEY.",
    )
    generation_model: str | None = _key(None, "Name of the model at that server. Default: the only one.")
    generation_phases: str = _key(
        "pseudo_label",
        "Phases whose answers the server generates: any of pseudo_label, correct, predict. In correct and predict it "
        "must serve the phase's own model, which is checked.",
    )
    generation_concurrency: int = _key(16, "Number of concurrent requests to that server, >= 1.")
    generation_allow_remote: bool = _key(
        False, "Whether or not questions and medical pictures may be sent to a server that is not on this machine."
    )
    generation_allow_http: bool = _key(
        False, "Whether or not that server may be reached by plain http, which machines on the way can read."
    )
    spice_jars: str | None = _key(
        None,
        "Folder of the two jars of Stanford CoreNLP 3.6.0 (archive stanford-corenlp-full-2015-12-09), for the real "
        "SPICE metric. Default: SPICE-approx.",
    )

    def __new__(cls, *args: Any, **keys: Any) -> Self:
        """Records the keys that were written; ``None`` counts as not written."""
        self = super().__new__(cls)
        options = OPTIONS_WRITTEN.get()
        self.clinkd_written = frozenset(
            key for key, value in keys.items() if value is not None and (options is None or key in options)
        )
        return self

    def check_clinkd(self) -> None:
        """Normalises this group; ``ValueError`` for keys without ``use_clinkd``, out of range or in conflict."""
        if not self.use_clinkd:
            for key, value in self.clinkd_dict().items():
                if key != "use_clinkd" and self.is_set(key):
                    raise ValueError(
                        f"`{key}: {value}` is a ClinKD key, but `use_clinkd` is false. "
                        f"Set `use_clinkd: true`, or remove `{key}`."
                    )
            return

        self.clinkd_phases = self._parse_phases("clinkd_phases", PHASES)
        self.generation_phases = self._parse_phases("generation_phases", GENERATING_PHASES)
        if self.kd_cache is False:  # YAML 1.1 reads a bare `off` as a boolean
            self.kd_cache = "off"
        self.rope_sections = self._parse_sections()
        self.correction_token_prices = self._parse_prices()
        for item in fields(ClinkdArguments):
            if item.name not in PARSED:
                require_type(item, getattr(self, item.name))

        for names, limits in RANGES.items():
            for key in names:
                if getattr(self, key) is not None or key not in OPTIONAL:
                    require_range(key, getattr(self, key), **limits)
                    if limits.get("integer"):
                        setattr(self, key, int(getattr(self, key)))  # YAML's 2.0 and 1e3 are floats
        check_conflicts(self)

    def clinkd_dict(self) -> dict[str, Any]:
        """The keys of this group as a plain dictionary."""
        return {item.name: getattr(self, item.name) for item in fields(ClinkdArguments)}

    def is_set(self, key: str) -> bool:
        """Whether a key was written, or set to another value than its default."""
        return key in self.clinkd_written or getattr(self, key) != type(self).__dataclass_fields__[key].default

    def _parse_phases(self, key: str, allowed: tuple[str, ...]) -> list[str]:
        phases = split_list(getattr(self, key))
        if not phases or not set(phases) <= set(allowed):
            unknown = next((phase for phase in phases if phase not in allowed), "")
            expected, hint = f"a non-empty subset of {', '.join(allowed)}", did_you_mean(unknown, allowed)
            raise bad_value(key, phases, expected, "correct the names", hint)
        in_order = [phase for phase in allowed if phase in phases]
        if phases != in_order:
            expected = f"each phase once, in the order {', '.join(allowed)}"
            raise bad_value(key, phases, expected, ", ".join(in_order))
        return phases

    def _parse_sections(self) -> list[int] | None:
        sections = parse_numbers("rope_sections", self.rope_sections, int, "three integers", "0,32,32")
        if sections is not None and (len(sections) != 3 or min(sections) < 0 or sum(sections) == 0):
            raise bad_value("rope_sections", sections, "three integers >= 0 (time, height, width)", "0,32,32")
        return sections

    def _parse_prices(self) -> list[float] | None:
        key, example = "correction_token_prices", "2.50,10.00"
        prices = parse_numbers(key, self.correction_token_prices, float, "two prices", example)
        if prices is not None and (len(prices) != 2 or not all(0 <= price < math.inf for price in prices)):
            raise bad_value(key, prices, "two prices >= 0 (prompt, completion)", example)
        return prices
