# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Memory of generating answers on one GPU: the cache of keys and values, the prompt's forward pass, beam scores."""

from .model_shape import ModelShape


SCORE_COPIES = 5
"""Arrays ``[rows, V]`` of fp32 that beam search holds at once: logits, log-probabilities, sums, sorted, kept."""


def generation_bytes(
    shape: ModelShape,
    *,
    rows: int,
    beams: int,
    prompt: int,
    new: int,
    image_tokens: int,
    e: int,
    all_logits: bool = False,
) -> int:
    """The most that one ``generate`` call holds beside the weights.

    Args:
        shape: The model.
        rows: Questions in a batch.
        beams: Beams, or sampled answers, of each.
        prompt: Tokens of the longest prompt, image included.
        new: Tokens generated.
        image_tokens: Of one image; the tower runs once for each image, whatever the beams.
        e: Bytes a number.
        all_logits: Whether the prompt's forward pass projects every position to the vocabulary and upcasts the
            result, as transformers did before 4.45.
    """
    sequences = rows * beams
    cache_a_token = 2 * shape.layers * shape.kv_width * e
    cache = sequences * (prompt + new) * cache_a_token + sequences * (prompt + new) * cache_a_token // shape.layers
    forward = sequences * prompt * (6 * e * shape.hidden + 8 * shape.hidden + 3 * e * shape.intermediate)
    positions = prompt if all_logits else 1
    logits = sequences * positions * shape.vocabulary * (e + 4 if all_logits else 0)
    scores = SCORE_COPIES * sequences * shape.vocabulary * 4
    patches = rows * image_tokens * shape.merge**2
    vision = patches * e * (8 * shape.vision_width + 2 * shape.vision_mlp)
    prefill = sequences * prompt * cache_a_token + max(forward, logits)
    return max(prefill, cache + scores, vision)
