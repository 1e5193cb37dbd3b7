# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The steps that ``kd_step.py`` compares, on one random Qwen2-VL student and teacher of one shape."""

import statistics
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from memory import measure
from qwen2vl import qwen2vl_config

from llamafactory_clinkd.kd.loss import distill_loss
from llamafactory_clinkd.kd.teacher import Teacher
from llamafactory_clinkd.kd.teacher_cache import HiddenCache
from llamafactory_clinkd.training.lm_head import supervised_positions
from llamafactory_clinkd.utils.patching import patch_instance


VOCABULARY = 151936
ALPHA, TEMPERATURE = 0.5, 0.5
SHAPES = {
    "tiny": {"hidden_size": 64, "layers": 2, "heads": 4, "intermediate_size": 128},
    "small": {"hidden_size": 512, "layers": 6, "heads": 8, "intermediate_size": 1408},
    "2b": {"hidden_size": 1536, "layers": 28, "heads": 12, "intermediate_size": 8960},
}


class Bench(NamedTuple):
    """What a step works on."""

    student: torch.nn.Module
    teacher: torch.nn.Module | None
    """None where there is none, or its states are cached and its head alone is left."""
    teacher_head: torch.Tensor | None
    """``[V, H]``."""
    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    cache: HiddenCache | None = None
    """The teacher's hidden states by row, read from disk at each step."""


def build_model(shape: str, dtype: torch.dtype, device: str, head: str) -> torch.nn.Module:
    """A random text part of Qwen2-VL with a tied head; the vision tower is as small as it can be."""
    from transformers import Qwen2VLForConditionalGeneration

    config = qwen2vl_config(
        **SHAPES[shape],
        kv_heads=2,
        vocab_size=VOCABULARY,
        tokens={"image_token_id": 151655, "video_token_id": 151656},
        vision={"depth": 1, "embed_dim": 32, "num_heads": 2},
        tie_word_embeddings=True,
    )
    model = Qwen2VLForConditionalGeneration(config).to(device, dtype)
    model.get_output_embeddings().weight.requires_grad_(head == "trained")
    return model


def build(case: dict[str, Any]) -> Bench:
    """Models and a batch whose last tokens are supervised."""
    torch.manual_seed(0)
    torch.set_num_threads(case["threads"])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[case["dtype"]]
    make = {"shape": case["shape"], "dtype": dtype, "device": case["device"], "head": case["head"]}
    rows, length, answer = case["rows"], case["length"], case["answer"]
    ids = torch.randint(0, 150000, (rows, length), device=case["device"])
    labels = torch.full_like(ids, -100)
    labels[:, -answer:] = ids[:, -answer:]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    student = build_model(**make).train()
    if not METHODS[case["method"]].teacher:
        return Bench(student, None, None, inputs, labels)
    teacher = build_model(**make).requires_grad_(False).eval()
    return Bench(student, teacher, teacher.get_output_embeddings().weight, inputs, labels)


def stock_sft(bench: Bench) -> torch.Tensor:
    """What stock LLaMA-Factory's trainer calls for a vision-language model: logits of every position."""
    return bench.student(**bench.inputs, labels=bench.labels).loss


def authors(bench: Bench) -> torch.Tensor:
    """Eq. 12-16 on two full-vocabulary logit tensors, as the paper's released code does it."""
    output = bench.student(**bench.inputs, labels=bench.labels)
    with torch.no_grad():
        teacher = bench.teacher(**bench.inputs).logits
    p_t = F.softmax(teacher[:, :-1].float() / TEMPERATURE, -1)
    log_p_s = F.log_softmax(output.logits[:, :-1].float() / TEMPERATURE, -1)
    divergence = (p_t * (p_t.clamp_min(1e-9).log() - log_p_s)).sum(-1)
    mask = bench.labels[:, 1:] != -100
    kl = (divergence * mask).sum() / mask.sum() * TEMPERATURE**2
    return (output.loss + ALPHA * kl) / (1 + ALPHA)


def in_head(bench: Bench, teacher: Callable[[torch.Tensor], torch.Tensor] | None) -> torch.Tensor:
    """Our step as the trainer makes it: the loss inside the head's call, supervised positions alone.

    Args:
        bench: The models and the batch.
        teacher: Gives hidden states ``[B * K, H]`` for positions ``[K]``; None for cross-entropy alone.
    """
    kept, targets = supervised_positions(bench.labels)
    hidden_t = None if teacher is None else teacher(kept)
    head, found = bench.student.get_output_embeddings(), []

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        found.append(
            distill_loss(
                hidden.flatten(0, 1),
                head.weight,
                hidden_t,
                bench.teacher_head,
                targets.flatten(),
                alpha=0.0 if teacher is None else ALPHA,
                temperature=TEMPERATURE,
            )
        )
        return found[0].loss.view(1, 1, 1)

    with patch_instance(head, "forward", forward):
        return bench.student(**bench.inputs, logits_to_keep=kept, use_cache=False).logits.view(())


def ours(bench: Bench) -> torch.Tensor:
    """Distillation with the teacher run at each step."""
    teacher = Teacher(bench.teacher, same_positions=True)
    return in_head(bench, lambda kept: teacher.hidden(bench.inputs, kept).flatten(0, 1))


def cached(bench: Bench) -> torch.Tensor:
    """Distillation with the teacher's hidden states read from the cache on disk."""

    def read(kept: torch.Tensor) -> torch.Tensor:
        rows = [bench.cache.get(str(row)) for row in range(len(bench.labels))]
        return torch.cat(rows).to(bench.labels.device)

    return in_head(bench, read)


def sft_in_head(bench: Bench) -> torch.Tensor:
    """Fine-tuning with the same head saving."""
    return in_head(bench, None)


def bound(bench: Bench) -> torch.Tensor:
    """What no distillation can do without: both trunks forward, the student's backward, no head at all."""
    with torch.no_grad():
        bench.teacher.model(**bench.inputs, use_cache=False)
    hidden = bench.student.model(**bench.inputs, use_cache=False).last_hidden_state
    return hidden[:, -1].float().mean()


def bound_products(bench: Bench) -> torch.Tensor:
    """The lower bound with the heads' matrix products at the supervised positions, and no softmax or loss."""
    kept, _ = supervised_positions(bench.labels)
    with torch.no_grad():
        hidden = bench.teacher.model(**bench.inputs, use_cache=False).last_hidden_state[:, kept]
        F.linear(hidden, bench.teacher_head)
    hidden = bench.student.model(**bench.inputs, use_cache=False).last_hidden_state[:, kept]
    return F.linear(hidden, bench.student.get_output_embeddings().weight).float().square().mean()


class Method(NamedTuple):
    """One way to make a step."""

    title: str
    step: Callable[[Bench], torch.Tensor]
    teacher: bool


METHODS = {
    "authors": Method("authors' way: two full-vocabulary logit tensors", authors, True),
    "sft": Method("stock SFT, no teacher", stock_sft, False),
    "sft_in_head": Method("SFT with our head saving, no teacher", sft_in_head, False),
    "ours": Method("ours", ours, True),
    "cached": Method("ours, teacher cached", cached, True),
    "bound": Method("lower bound: both trunks, no heads", bound, True),
    "bound_products": Method("lower bound and the heads' products", bound_products, True),
}


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Forward and backward of a few steps after one that warms up: median seconds, largest peak, loss."""
    bench = build(case)
    with tempfile.TemporaryDirectory() as folder:
        if case["method"] == "cached":
            bench = bench._replace(cache=_fill_cache(bench, folder), teacher=None)

        def step() -> float:
            loss = METHODS[case["method"]].step(bench)
            loss.backward()
            return loss.item()

        found = []
        for _ in range(case["repeats"] + 1):
            found.append(measure(step, case["device"]))
            bench.student.zero_grad(set_to_none=True)
    timed = found[1:]
    return {
        "seconds": statistics.median(each.seconds for each in timed),
        "cpu_seconds": statistics.median(each.cpu_seconds for each in timed),
        "peak_mib": max(each.peak_mib for each in found),
        "loss": found[0].value,
        "device_name": torch.cuda.get_device_name() if case["device"] == "cuda" else None,
    }


def _fill_cache(bench: Bench, folder: str) -> HiddenCache:
    kept, targets = supervised_positions(bench.labels)
    hidden = Teacher(bench.teacher, same_positions=True).hidden(bench.inputs, kept)
    cache = HiddenCache(folder, teacher="bench", hidden_size=hidden.shape[-1])
    for row, states in enumerate(hidden):
        cache.put(str(row), states[targets[row] != -100])
    cache.flush()
    return cache
