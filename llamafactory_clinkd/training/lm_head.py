# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Only supervised positions reach the language-model head.

Stock training projects every position to the vocabulary (152k columns for Qwen2-VL) and throws most of it away. Here
the model is told which positions to keep, and its head is asked for what the caller needs there: hidden states, a
loss, or logits. The head's ``forward`` is replaced for one call, so the hooks of DDP, DeepSpeed and FSDP around the
head module fire as always.
"""

import inspect
from typing import Any

import torch
from torch import nn

from ..utils.models import text_config, unwrap_adapters
from ..utils.patching import patch_instance


IGNORE_INDEX = -100
CHANGED_AFTER = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Configuration keys of models that scale or cap what their head gives (Gemma 2, Cohere, Granite, Falcon-H1)."""


def supervised_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds the positions whose logits are trained.

    Args:
        labels: ``[B, L]`` int64, ``-100`` where nothing is learnt.

    Returns:
        ``kept``: ``[K]`` int64, positions ``0 <= k < L - 1`` whose *next* token is supervised in some row (one
        position if there is none, so that the head still takes part in the graph); ``targets``: ``[B, K]`` int64
        labels of those next tokens, ``-100`` where a row has none.
    """
    shifted = labels[:, 1:]
    kept = (shifted != IGNORE_INDEX).any(dim=0).nonzero().flatten()
    if kept.numel() == 0:
        kept = kept.new_zeros(1)
    return kept, shifted[:, kept]


def plain_head(model: nn.Module) -> nn.Linear | None:
    """The model's output projection, if hidden states times its weight are the logits; else ``None``.

    ``None`` for heads that adapters wrap, that are quantised, and for models that scale or cap the logits after it.
    """
    head = model.get_output_embeddings()
    config = text_config(model.config)
    changed_after = any(getattr(config, key, None) for key in CHANGED_AFTER)
    if type(head) is not nn.Linear or changed_after or not keeps_positions(model):
        return None
    return head


def keeps_positions(model: nn.Module) -> bool:
    """Whether the model's ``forward`` takes ``logits_to_keep``."""
    base = unwrap_adapters(model)
    return "logits_to_keep" in inspect.signature(base.forward).parameters


def hidden_at(model: nn.Module, head: nn.Linear, inputs: dict[str, Any], kept: torch.Tensor) -> torch.Tensor:
    """Final hidden states ``[B, K, H]`` of ``model`` at the positions ``kept``, without projecting them.

    They are taken inside the head's call, in the dtype that the head would get: around the model, mixed precision
    turns every output into fp32.

    Raises:
        ValueError: See :func:`check_unchanged`.
    """
    taken: list[torch.Tensor] = []

    def take(hidden: torch.Tensor) -> torch.Tensor:
        taken.append(hidden)
        return hidden[..., :1]

    with patch_instance(head, "forward", take):
        output = model(**inputs, logits_to_keep=kept, use_cache=False)
    check_unchanged(model, output.logits, taken[0][..., :1])
    return taken[0]


def check_unchanged(model: nn.Module, logits: torch.Tensor, given: torch.Tensor) -> None:
    """Checks that a model returns what its head gave, so that hidden states and head say all about its logits.

    Args:
        model: The model, looked at once in its life.
        logits: What it returned.
        given: What was given in the head's place.

    Raises:
        ValueError: If the model scales, caps or masks the logits after its head, and :data:`CHANGED_AFTER` does not
            know it.
    """
    if getattr(model, "_clinkd_head_checked", False):
        return
    if logits.shape != given.shape or not torch.equal(logits, given.to(logits.dtype)):
        kind = type(unwrap_adapters(model)).__name__
        raise ValueError(
            f"{kind} changes its logits after its head, in a way that is not known here: the loss would be wrong. "
            "Expected was a model whose logits are hidden states times the head's weight. Report its name; with its "
            f"configuration's key in `{__name__}.CHANGED_AFTER` it trains from its logits."
        )
    model._clinkd_head_checked = True


def output_at(model: nn.Module, inputs: dict[str, Any], kept: torch.Tensor, *, restricts: bool) -> Any:
    """The model's output with logits ``[B, K, V]`` at the positions ``kept``.

    They are computed everywhere if the model cannot restrict its head.
    """
    if restricts:
        return model(**inputs, logits_to_keep=kept, use_cache=False)
    output = model(**inputs, use_cache=False)
    output.logits = output.logits[:, kept]
    return output


def router_loss(model: nn.Module, output: Any) -> torch.Tensor | None:
    """The load-balancing loss of a mixture of experts, weighted as the model weighs it; ``None`` where there is none.

    A model adds it to its loss only if it is given labels. Stock's ``moe_aux_loss_coef`` asks for it.

    Raises:
        ValueError: If there is such a loss and no weight for it.
    """
    loss = getattr(output, "aux_loss", None)
    if not isinstance(loss, torch.Tensor):  # transformers returns 0 for a model without routers
        return None
    base = unwrap_adapters(model)
    for place in (base, base.config, text_config(base.config)):
        weight = getattr(place, "router_aux_loss_coef", None)
        if weight is not None:
            return weight * loss
    raise ValueError(
        f"{type(base).__name__} returns a loss of its routers, but has no `router_aux_loss_coef` to weigh it by. "
        "Remove `moe_aux_loss_coef` from the recipe."
    )
