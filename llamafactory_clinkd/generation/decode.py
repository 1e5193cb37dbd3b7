# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Generates candidates for one batch with ``model.generate``, also in the middle of training.

The log-probability of every candidate is computed without keeping a ``[rows, V]`` tensor per step
(:class:`_TokenLogprobs`), and the candidates of a row share its prefill (:func:`shared_prefill`).
"""

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers import LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from ..rope.binding import token_types
from ..utils.boxes import TAGS
from ..utils.models import unwrap_adapters
from ..utils.patching import patch_instance
from .shared_prefill import shared_prefill


# LLaMA-Factory makes every additional special token an end token; these occur inside an answer and must not end it.
ANSWER_TOKENS = tuple(tag for tags in TAGS.values() for tag in tags.values())
# The collator adds these for training; `generate` computes positions itself, with the model's own `get_rope_index`.
_TRAINING_KEYS = ("labels", "position_ids", "rope_deltas")


def model_inputs(model: nn.Module, batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """The arguments of ``generate`` from a collated batch, on ``device``; ``input_ids`` [b, s] padded on the left.

    Labels and precomputed positions are removed. Models whose forward takes ``mm_token_type_ids`` (Qwen2-VL in
    transformers 5) get them: LLaMA-Factory's collator does not, and ``generate`` would silently use 1D positions.
    """
    if not bool(batch["attention_mask"][:, -1].all()):
        raise ValueError(
            "The collator padded this batch on the right; generation continues the last token, so it needs padding on "
            "the left. Set `tokenizer.padding_side = 'left'` before calling `generate_rows`."
        )
    inputs = {key: value for key, value in batch.items() if key not in _TRAINING_KEYS}
    hf_model = base_model(model)
    if "mm_token_type_ids" not in inputs and "mm_token_type_ids" in signature(type(hf_model).forward).parameters:
        inputs["mm_token_type_ids"] = token_types(hf_model.config, inputs["input_ids"])
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in inputs.items()}


def generation_settings(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, gen_kwargs: Mapping[str, Any], num_candidates: int
) -> dict[str, Any]:
    """Keyword arguments for ``model.generate`` that return ``num_candidates`` sequences per row.

    Sampling is enabled only by ``gen_kwargs``, not by a checkpoint's default. Without sampling, several candidates are
    the best beams, and ``num_beams`` is raised to their number if it is smaller. With sampling, the first of several
    is the greedy answer (``greedy_first``, for :func:`decode_batch`). The tags of an answer (``ANSWER_TOKENS``) are
    removed from the end tokens.
    """
    if num_candidates < 1:
        raise ValueError(f"`num_candidates` must be at least 1, found {num_candidates}.")
    settings = dict(gen_kwargs)
    settings["do_sample"] = bool(settings.get("do_sample", False))
    num_beams = int(settings.get("num_beams") or 1)
    settings["num_beams"] = num_beams if settings["do_sample"] else max(num_beams, num_candidates)
    settings["num_return_sequences"] = num_candidates
    if settings["do_sample"] and settings["num_beams"] == 1 < num_candidates:
        settings["greedy_first"] = True

    sources = (settings.get("eos_token_id"), base_model(model).generation_config.eos_token_id, tokenizer.eos_token_id)
    ends = next((ids for ids in sources if ids is not None), [])
    ends = [ends] if isinstance(ends, int) else list(ends)
    answer_ids = {tokenizer.convert_tokens_to_ids(token) for token in ANSWER_TOKENS}
    ends = [end for end in ends if end not in answer_ids]
    settings["eos_token_id"] = ends or None
    if settings.get("pad_token_id") is None:
        settings["pad_token_id"] = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    return settings


def decode_batch(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    seed: int = 0,
    synced_gpus: bool = False,
    skip_special_tokens: bool = False,
) -> list[dict[str, Any]]:
    """Candidates for one batch from one ``generate`` call, of a model in evaluation mode.

    Takes the ``inputs`` of :func:`model_inputs` and the ``settings`` of :func:`generation_settings`. ``seed`` is for
    sampling; ``synced_gpus`` keeps all ranks in step (ZeRO-3, FSDP); ``skip_special_tokens`` removes tags, too.

    Returns:
        b rows ``{"candidates": [{"text", "logprob"}], "tokens"}``, candidates as ``generate`` orders them (beams: best
        first; samples: the greedy answer first, if ``settings`` has ``greedy_first``). ``logprob`` is the mean
        natural-log probability of the generated tokens, end token included, after the logits processors; ``tokens``
        counts the generated tokens of all candidates.
    """
    ends = torch.tensor(settings["eos_token_id"] or [], dtype=torch.long)
    repeats = max(settings["num_beams"], settings["num_return_sequences"])
    if settings["do_sample"]:
        seed_model(model, seed)

    settings, token_logprobs = dict(settings), _TokenLogprobs()
    stride = settings["num_return_sequences"] if settings.pop("greedy_first", False) else 0
    # Not `inference_mode`: in the middle of training, a cached inference tensor would break the next backward pass.
    with torch.no_grad(), shared_prefill(base_model(model), repeats), _greedy_rows(model, stride, token_logprobs):
        output = extract_model_from_parallel(model).generate(
            **inputs,
            **settings,
            use_cache=True,
            return_dict_in_generate=True,
            output_scores=True,
            stopping_criteria=StoppingCriteriaList([token_logprobs]),
            synced_gpus=synced_gpus,
        )

    answers = output.sequences[:, inputs["input_ids"].size(1) :].cpu()
    is_end = torch.isin(answers, ends)  # an answer without an end token has the full width
    lengths = torch.where(is_end.any(1), is_end.int().argmax(1) + 1, answers.size(1)).tolist()
    if settings["num_beams"] > 1:  # `generate` scores a beam by sum / length ** penalty
        penalty = settings.get("length_penalty")
        exponent = 0.0 if penalty is None else penalty - 1
        scores = output.sequences_scores.tolist()
        means = [score * length**exponent for score, length in zip(scores, lengths, strict=True)]
    else:
        means = token_logprobs.means(lengths)
    texts = tokenizer.batch_decode(
        [answer[: length - bool(end.any())] for answer, length, end in zip(answers, lengths, is_end, strict=True)],
        skip_special_tokens=skip_special_tokens,
        clean_up_tokenization_spaces=False,
    )

    logprobs = [mean if math.isfinite(mean) else None for mean in means]
    candidates = [{"text": text, "logprob": value} for text, value in zip(texts, logprobs, strict=True)]
    n = settings["num_return_sequences"]
    return [
        {"candidates": candidates[start : start + n], "tokens": sum(lengths[start : start + n])}
        for start in range(0, len(candidates), n)
    ]


class _TokenLogprobs(StoppingCriteria):
    """Never stops; records each chosen token's log-probability and frees the scores of the step.

    ``generate`` returns ``sequences_scores`` only with ``output_scores=True``, which keeps a ``[rows, V]`` tensor for
    every step (3.7 GB for 24 rows, 256 steps and V = 152k), though it reads none again.
    """

    def __init__(self) -> None:
        self.steps: list[Tensor] = []
        self.greedy: Tensor | None = None  # of the step's greedy rows, whose scores hold one token only
        self.stride = 0

    def __call__(self, input_ids: Tensor, scores: tuple[Tensor, ...], **kwargs) -> Tensor:
        step = scores[-1]
        if step.size(0) == input_ids.size(0):  # beam search passes more continuations than rows
            chosen = input_ids[:, -1:]
            logprobs = (step.gather(1, chosen) - step.logsumexp(1, keepdim=True)).squeeze(1)
            if self.greedy is not None:
                logprobs[:: self.stride] = self.greedy
            self.steps.append(logprobs.cpu())
        step.untyped_storage().resize_(0)
        return torch.zeros(input_ids.size(0), dtype=torch.bool, device=input_ids.device)

    def means(self, lengths: list[int]) -> list[float]:
        """Mean over each row's first ``length`` tokens."""
        table = torch.stack(self.steps, dim=1)
        return [row[:length].mean().item() for row, length in zip(table, lengths, strict=True)]


@contextmanager
def _greedy_rows(model: nn.Module, stride: int, record: _TokenLogprobs) -> Iterator[None]:
    """Every ``stride``-th row takes its likeliest token although ``generate`` samples; 0 leaves all rows as they are.

    The log-probabilities are, as a sample's, those after temperature and top-p: this is the last of the processors,
    and ``generate`` puts those that it is given before these.
    """
    if not stride:
        yield
        return
    hf_model = base_model(model)
    stock = hf_model._get_logits_processor
    record.stride = stride

    def keep_likeliest(input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = scores[::stride]
        best, token = rows.max(1, keepdim=True)
        record.greedy = (best - rows.logsumexp(1, keepdim=True)).squeeze(1)
        scores = scores.clone()
        scores[::stride] = torch.full_like(rows, -math.inf).scatter_(1, token, best)
        return scores

    def processors(*args: Any, **kwargs: Any) -> LogitsProcessorList:
        return LogitsProcessorList([*stock(*args, **kwargs), keep_likeliest])

    with patch_instance(hf_model, "_get_logits_processor", processors):
        yield


def base_model(model: nn.Module) -> nn.Module:
    """The plain transformers model inside DDP, DeepSpeed, ``torch.compile`` and PEFT wrappers."""
    return unwrap_adapters(extract_model_from_parallel(model))


@contextmanager
def preserve_training_state(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module's mode and every random generator are restored.

    Modes are stored per module, because a frozen vision tower may be in evaluation mode while the rest trains.
    Evaluation mode also disables gradient checkpointing (it acts in training mode only), so the cache stays enabled.
    Restored generators: Python's, NumPy's, torch's CPU generator and that of every accelerator with a parameter.
    """
    modes = [(module, module.training) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = accelerators(model)
    device_type = devices[0].type if devices else "cuda"
    with torch.random.fork_rng([device.index for device in devices], device_type=device_type):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def accelerators(model: nn.Module) -> list[torch.device]:
    """The devices other than the CPU that hold a parameter."""
    devices = {parameter.device for parameter in model.parameters()}
    return sorted((d for d in devices if d.type not in ("cpu", "meta")), key=str)


def seed_model(model: nn.Module, seed: int) -> None:
    """Seeds the generators of the CPU and of the model's devices, and no others."""
    torch.default_generator.manual_seed(seed)
    for device in accelerators(model):
        module = torch.get_device_module(device)
        with module.device(device):
            module.manual_seed(seed)
