# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Restricts the language-model head to the supervised positions.

Stock training projects every position to the vocabulary (152k columns for Qwen2-VL) and throws most of it away. Here
the model gets the supervised positions as ``logits_to_keep``, and its head computes what the caller needs there:
hidden states, a loss, or logits. The head's ``forward`` is replaced for one call, so the hooks of DDP, DeepSpeed and
FSDP around the head module fire as usual.
"""

import inspect
import logging
from typing import Any

import torch
from torch import nn

from ..utils.models import text_config, unwrap_adapters
from ..utils.patching import patch_instance


logger = logging.getLogger(__name__)

IGNORE_INDEX = -100
# Configuration keys of models that scale or cap their head's output: Gemma 2, Cohere, Granite, Falcon-H1.
LOGIT_SCALING_KEYS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


def supervised_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions whose logits are trained, of labels ``[B, L]`` int64 with -100 where nothing is learnt.

    Returns:
        ``supervised_idx``: ``[K]`` int64, positions ``0 <= k < L - 1`` whose *next* token is supervised in some row
        (position 0 if none is, so that the head stays in the graph); ``targets``: ``[B, K]`` int64 labels of those
        next tokens, -100 where a row has none.
    """
    shifted = labels[:, 1:]
    supervised_idx = (shifted != IGNORE_INDEX).any(dim=0).nonzero().flatten()
    if supervised_idx.numel() == 0:
        supervised_idx = supervised_idx.new_zeros(1)
    return supervised_idx, shifted[:, supervised_idx]


def find_head(model: nn.Module, role: str) -> tuple[nn.Linear | None, bool]:
    """The output projection of a model that no engine wraps; logs a warning if there is none to use directly.

    Returns:
        ``head``: None if adapters wrap it, if it is quantised, or if the model scales or caps the logits after it or
        does not take ``logits_to_keep``; ``restricts``: whether the model takes ``logits_to_keep``.
    """
    base = unwrap_adapters(model)
    restricts = "logits_to_keep" in inspect.signature(base.forward).parameters
    head, config = model.get_output_embeddings(), text_config(model.config)
    if type(head) is nn.Linear and restricts and not any(getattr(config, key, None) for key in LOGIT_SCALING_KEYS):
        return head, restricts
    where = "at the supervised positions" if restricts else "at every position"
    name = type(model).__name__
    logger.warning("The head of the %s, a %s, cannot be used directly: logits are computed %s.", role, name, where)
    return None, restricts


def hidden_at(model: nn.Module, head: nn.Linear, inputs: dict[str, Any], supervised_idx: torch.Tensor) -> torch.Tensor:
    """Final hidden states ``[B, K, H]`` of ``model`` at ``supervised_idx`` ``[K]``, without projecting them.

    They are read inside the head's call, before mixed precision turns the model's outputs into fp32.
    """
    captured: list[torch.Tensor] = []

    def capture(hidden: torch.Tensor) -> torch.Tensor:
        captured.append(hidden)
        return hidden[..., :1]

    with patch_instance(head, "forward", capture):
        output = model(**inputs, logits_to_keep=supervised_idx, use_cache=False)
    check_unchanged(model, output.logits, captured[0][..., :1])
    return captured[0]


def check_unchanged(model: nn.Module, logits: torch.Tensor, head_output: torch.Tensor) -> None:
    """Raises ValueError, in a model's first batch, unless its ``logits`` are finite and its head's output.

    It may scale, cap or mask them after its head only by a key in :data:`LOGIT_SCALING_KEYS`.
    """
    if getattr(model, "_clinkd_head_checked", False):
        return
    if not bool(head_output.isfinite().all()):
        config = unwrap_adapters(model).config
        raise ValueError(
            f"{type(unwrap_adapters(model)).__name__} ({config._name_or_path or 'no name'}, {head_output.dtype}) "
            "computes NaN or infinite numbers in its first batch, though its weights are finite: a value leaves the "
            "range of its dtype. Set `bf16: true` instead of `fp16: true`, or neither; else the weights are damaged."
        )
    if logits.shape != head_output.shape or not torch.equal(logits, head_output.to(logits.dtype)):
        raise ValueError(
            f"{type(unwrap_adapters(model)).__name__} changes its logits after its head in an unknown way: the loss "
            "would be wrong. Expected a model whose logits are hidden states times the head's weight. Report its "
            f"name; with its configuration's key in `{__name__}.LOGIT_SCALING_KEYS` it trains from its logits."
        )
    model._clinkd_head_checked = True


def output_at(model: nn.Module, inputs: dict[str, Any], supervised_idx: torch.Tensor, *, restricts: bool) -> Any:
    """The output with logits ``[B, K, V]`` at ``supervised_idx``; all are computed unless the model ``restricts``."""
    if restricts:
        return model(**inputs, logits_to_keep=supervised_idx, use_cache=False)
    output = model(**inputs, use_cache=False)
    output.logits = output.logits[:, supervised_idx]
    return output


def router_loss(model: nn.Module, output: Any) -> torch.Tensor | None:
    """The weighted load-balancing loss of a mixture of experts; None without one, ValueError without a weight for it.

    A model adds it to its loss only if it gets labels. Stock's ``moe_aux_loss_coef`` switches it on.
    """
    loss = getattr(output, "aux_loss", None)
    if not isinstance(loss, torch.Tensor):  # transformers returns 0 for a model without routers
        return None
    base = unwrap_adapters(model)
    for owner in (base, base.config, text_config(base.config)):
        weight = getattr(owner, "router_aux_loss_coef", None)
        if weight is not None:
            return weight * loss
    raise ValueError(
        f"{type(base).__name__} returns a router loss but has no `router_aux_loss_coef` to weight it. "
        "Remove `moe_aux_loss_coef` from the recipe."
    )
