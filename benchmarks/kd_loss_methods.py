# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One case of ``kd_loss.py``: the losses compared, their inputs, and the fp64 gradient that each is held against.

Peers compute different objectives, so each is compared with the exact gradient of its own,
``ce * CE + kd * KL(p_t || p_s)`` at its temperature, averaged over the supervised rows. Every peer is called as its
own trainer or recipe calls it. Runs in the peers' environment too, so it imports only torch and the peer.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from memory import measure


VOCABULARY, STUDENT_WIDTH, TEACHER_WIDTH = 151936, 512, 768
ALPHA, TEMPERATURE = 0.5, 0.5


class Inputs(NamedTuple):
    """Hidden states ``[N, H]``, heads ``[V, H]``, labels ``[N]`` with every second row ignored."""

    hs: torch.Tensor
    ws: torch.Tensor
    ht: torch.Tensor
    wt: torch.Tensor
    labels: torch.Tensor


class Method(NamedTuple):
    """A loss and the objective it stands for: the weights of CE and of KL, and the temperature of KL."""

    run: Callable[[Inputs], torch.Tensor]
    ce: float
    kd: float
    temperature: float = TEMPERATURE
    peer: bool = True


def make_inputs(rows: int, dtype: torch.dtype, regime: str, head: str, device: str, vocabulary: int) -> Inputs:
    """Random inputs.

    ``late`` is late in training: both models give the label a logit near 20 and one competitor 2 to 5 less, so that
    the label has a probability of 0.88 to 0.99 and all but two ids have next to none.
    """
    torch.manual_seed(0)
    heads = [torch.randn(vocabulary, width).mul_(2 / width**0.5) for width in (STUDENT_WIDTH, TEACHER_WIDTH)]
    labels = torch.randint(0, vocabulary, (rows,))
    states = [torch.randn(rows, w.shape[1]) for w in heads]
    if regime == "late":
        competitors = torch.randint(0, vocabulary, (rows,))
        states = [
            20 * _towards(w[labels]) + (18 - 3 * torch.rand(rows, 1)) * _towards(w[competitors]) + 0.1 * h
            for w, h in zip(heads, states, strict=True)
        ]
    labels[::2] = -100
    (hs, ht), (ws, wt) = ([x.to(device, dtype) for x in group] for group in (states, heads))
    return Inputs(hs.requires_grad_(), ws.requires_grad_(head == "trained"), ht, wt, labels.to(device))


def _towards(weights: torch.Tensor) -> torch.Tensor:
    """Hidden states ``[N, H]`` that give their rows of the head, ``[N, H]``, a logit of 1."""
    return weights / weights.pow(2).sum(dim=-1, keepdim=True)


def ours(x: Inputs) -> torch.Tensor:
    """``llamafactory_clinkd.kd.loss.distill_loss``."""
    from llamafactory_clinkd.kd.loss import distill_loss

    return distill_loss(x.hs, x.ws, x.ht, x.wt, x.labels, alpha=ALPHA, temperature=TEMPERATURE).loss


def ours_sft(x: Inputs) -> torch.Tensor:
    """The same without a teacher."""
    from llamafactory_clinkd.kd.loss import distill_loss

    return distill_loss(x.hs, x.ws, None, None, x.labels, alpha=0, temperature=1).loss


def dense(x: Inputs) -> torch.Tensor:
    """Eq. 12-16 on full logits, upcast to fp32 as transformers does for its cross-entropy."""
    z = F.linear(x.hs, x.ws).float()
    with torch.no_grad():
        p_t = F.softmax(F.linear(x.ht, x.wt).float() / TEMPERATURE, dim=-1)
    keep = x.labels != -100
    kd = (F.kl_div(F.log_softmax(z / TEMPERATURE, dim=-1), p_t, reduction="none").sum(dim=-1) * keep).sum()
    ce = F.cross_entropy(z, x.labels, ignore_index=-100, reduction="sum")
    return (ce + ALPHA * TEMPERATURE**2 * kd) / (1 + ALPHA) / keep.sum()


def dense_sft(x: Inputs) -> torch.Tensor:
    """What stock supervised fine-tuning computes."""
    return F.cross_entropy(F.linear(x.hs, x.ws).float(), x.labels, ignore_index=-100)


def trl_chunked(x: Inputs) -> torch.Tensor:
    """TRL's ``DistillationTrainer``, forward KL (``beta=0``)."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    mask = (x.labels != -100)[None]
    return _chunked_divergence_loss(x.hs[None], x.ht[None], x.ws, x.wt, mask, beta=0.0, temperature=TEMPERATURE)[0]


def trl_gkd(x: Inputs) -> torch.Tensor:
    """TRL's ``GKDTrainer``, forward KL (``beta=0``)."""
    from trl.experimental.gkd import GKDTrainer

    with torch.no_grad():
        t = F.linear(x.ht, x.wt)
    z = F.linear(x.hs, x.ws)
    return GKDTrainer.generalized_jsd_loss(z[None], t[None], x.labels[None], beta=0.0, temperature=TEMPERATURE)


def liger(x: Inputs) -> torch.Tensor:
    """Liger's fused JSD at ``beta=0``, which is forward KL.

    Uncompiled, as compiling would be in the figures; in chunks of 128, as its default of 1024 is the whole batch here.
    """
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(0.5, 0.5, beta=0.0, temperature=TEMPERATURE, compiled=False, chunk_size=128)
    return loss(x.hs, x.ws, x.ht, x.wt, x.labels)


def torchtune(x: Inputs) -> torch.Tensor:
    """The chunked forward KL of torchtune, which has no temperature."""
    from torchtune.modules.loss import ForwardKLWithChunkedOutputLoss

    loss = ForwardKLWithChunkedOutputLoss()
    student = [F.linear(chunk, x.ws) for chunk in x.hs[None].chunk(loss.num_output_chunks, dim=1)]
    with torch.no_grad():
        teacher = [F.linear(chunk, x.wt) for chunk in x.ht[None].chunk(loss.num_output_chunks, dim=1)]
    return loss(student, teacher, x.labels[None])


def modelopt(x: Inputs) -> torch.Tensor:
    """ModelOpt's logits loss, unreduced, masked and averaged by the caller."""
    from modelopt.torch.distill import LogitsDistillationLoss

    with torch.no_grad():
        t = F.linear(x.ht, x.wt)
    rows = LogitsDistillationLoss(temperature=TEMPERATURE, reduction="none")(F.linear(x.hs, x.ws), t)
    keep = x.labels != -100
    return (rows * keep).sum() / keep.sum()


_KD = ALPHA * TEMPERATURE**2
METHODS = {
    "ours": Method(ours, 1 / (1 + ALPHA), _KD / (1 + ALPHA), peer=False),
    "ours, no teacher": Method(ours_sft, 1.0, 0.0, peer=False),
    "dense CE + KL": Method(dense, 1 / (1 + ALPHA), _KD / (1 + ALPHA), peer=False),
    "dense SFT": Method(dense_sft, 1.0, 0.0, peer=False),
    "TRL chunked": Method(trl_chunked, 0.0, 1.0),
    "TRL GKD": Method(trl_gkd, 0.0, 1.0),
    "Liger JSD": Method(liger, 0.5, 0.5),
    "torchtune": Method(torchtune, 0.0, 1.0, temperature=1.0),
    "ModelOpt": Method(modelopt, 0.0, TEMPERATURE**2),
}


def exact_gradients(x: Inputs, method: Method, chunk: int = 32) -> tuple[torch.Tensor, torch.Tensor | None]:
    """fp64 gradients of the method's objective for hidden states and, if it trains, head; by autograd, in chunks."""
    grad_h = torch.zeros_like(x.hs, dtype=torch.float64)
    head = x.ws.detach().double().requires_grad_(x.ws.requires_grad)
    rows = (x.labels != -100).nonzero().squeeze(1)
    teacher_head = x.wt.double() if method.kd else None
    for part in rows.split(chunk):
        hidden = x.hs.detach()[part].double().requires_grad_()
        z = hidden @ head.t()
        loss = method.ce * F.cross_entropy(z, x.labels[part], reduction="sum")
        if method.kd:
            p_t = F.softmax(x.ht[part].double() @ teacher_head.t() / method.temperature, dim=-1)
            log_ps = F.log_softmax(z / method.temperature, dim=-1)
            loss = loss + method.kd * F.kl_div(log_ps, p_t, reduction="sum")
        (loss / len(rows)).backward()
        grad_h[part] = hidden.grad
    return grad_h, head.grad


def relative_error(gradient: torch.Tensor, exact: torch.Tensor) -> float:
    """Norm of the difference over the norm of the exact one."""
    return ((gradient.double() - exact).norm() / exact.norm()).item()


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Measures one case in this process.

    Args:
        case: ``method``, ``rows``, ``dtype`` (``fp32``, ``bf16``), ``head`` (``frozen``, ``trained``), ``device``,
            ``threads``, ``vocabulary``, ``errors`` (whether gradients are compared with fp64).

    Returns:
        ``seconds``, ``cpu_seconds`` and ``peak_mib`` of forward and backward, ``loss``, gradient errors by
        regime; or ``missing``.
    """
    torch.set_num_threads(case["threads"])
    method, dtype = METHODS[case["method"]], {"fp32": torch.float32, "bf16": torch.bfloat16}[case["dtype"]]

    def build(rows: int, regime: str, vocabulary: int) -> Inputs:
        return make_inputs(rows, dtype, regime, case["head"], case["device"], vocabulary)

    def step(x: Inputs) -> float:
        loss = method.run(x)
        loss.backward()
        return loss.item()

    result: dict[str, Any] = {"torch": torch.__version__, "device": _device_name(case["device"])}
    try:
        step(build(16, "random", 64))  # imports, lazy initialisation
    except ImportError as error:
        return {**result, "missing": f"{type(error).__name__}: {error}"}
    for regime in ("random", "late") if case["errors"] else ("random",):
        x = build(case["rows"], regime, case["vocabulary"])
        measured = measure(lambda x=x: step(x), case["device"])
        if regime == "random":
            result |= {key: getattr(measured, key) for key in ("seconds", "cpu_seconds", "peak_mib")}
            result["loss"] = measured.value
        if case["errors"]:
            exact_h, exact_w = exact_gradients(x, method)
            result[f"error_{regime}"] = relative_error(x.hs.grad, exact_h)
            if exact_w is not None:
                result[f"head_error_{regime}"] = relative_error(x.ws.grad, exact_w)
    return result


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown CPU"
