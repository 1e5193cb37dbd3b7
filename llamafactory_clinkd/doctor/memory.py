# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Memory of a training phase on one GPU: weights, gradients, optimiser, teacher, activations, loss.

Bytes a parameter in stock LLaMA-Factory, N ranks:

=====================  =======  =========  =========  ====================================================
engine                 weights  gradients  optimiser  note
=====================  =======  =========  =========  ====================================================
fp32                   4        4          8          AdamW's two moments
bf16, data parallel    4        4          8          trained weights are fp32; frozen ones 2; autocast's
                                                      copies of the trained ones, 2 more, live in forward
bf16, ZeRO-1           2        2          12 / N     fp32 weights live with the optimiser
bf16, ZeRO-2           2        2 / N      12 / N
bf16, ZeRO-3           2 / N    2 / N      12 / N     one layer and the head are whole while in use
=====================  =======  =========  =========  ====================================================
"""

from .model_shape import ModelShape
from .recipe_spec import Facts


LOSS_BUFFERS = 224 * 2**20

"""Two logit buffers of a chunk (``kd.fused.CHUNK_BYTES``)."""


def trained_parameters(facts: Facts) -> int:
    """Parameters that have a gradient and an optimiser state (with BAdam: at any one time)."""
    shape = facts.student
    if facts.finetuning == "lora":
        return shape.lora_parameters(facts.lora_rank)
    if facts.badam:
        return shape.layer_parameters
    projector = shape.merger_parameters if facts.trains_projector else 0
    if facts.finetuning == "freeze":
        return min(facts.trainable_layers, shape.layers) * shape.layer_parameters + projector
    vision = shape.vision_parameters if facts.trains_vision else 0
    return shape.decoder_parameters + projector + vision


def weight_bytes(facts: Facts) -> int:
    """The student's weights on one GPU."""
    shape, trained = facts.student, trained_parameters(facts)
    if facts.finetuning == "lora":
        return model_bytes(shape, facts, facts.student_bits) + 4 * trained
    frozen_bytes = 2 if facts.half else 4
    trained_bytes = 2 if facts.half and (facts.zero_stage or facts.pure_half) else 4
    whole = trained_bytes * trained + frozen_bytes * (shape.parameters - trained)
    return sharded(whole, facts)


def model_bytes(shape: ModelShape, facts: Facts, bits: int | None) -> int:
    """Weights of a frozen model on one GPU: the teacher, or the base under adapters."""
    each = 2 if facts.half else 4
    if bits is None:
        return sharded(each * shape.parameters, facts)
    packed = shape.linear_parameters * (bits / 8 + (0.016 if bits == 4 else 0.002))  # with the blocks' scales
    return int(packed + each * (shape.parameters - shape.linear_parameters))


def offloaded_bytes(shape: ModelShape, facts: Facts) -> int:
    """What ``kd_teacher_offload`` leaves on the GPU at once: the embeddings, one layer, or the head for the loss.

    On the CPU itself nothing moves: the whole model is there.
    """
    each = 2 if facts.half else 4
    return each * (shape.parameters if facts.on_cpu else max(shape.embedding_parameters, shape.layer_parameters))


def sharded(whole: int, facts: Facts) -> int:
    """Bytes of weights on one GPU."""
    if facts.offload_weights:
        return 0
    return whole // facts.gpus if facts.zero_stage == 3 else whole


def gradient_bytes(facts: Facts) -> int:
    """Gradients that are kept between micro-batches."""
    each = 2 if facts.half and (facts.zero_stage or facts.pure_half) else 4
    whole = each * trained_parameters(facts)
    return whole // facts.gpus if facts.zero_stage >= 2 else whole


def optimizer_bytes(facts: Facts) -> int:
    """States of the optimiser, with the fp32 weights that live there under ZeRO and BAdam."""
    trained = trained_parameters(facts)
    if facts.galore_rank is not None:
        return _galore_bytes(facts)
    each = 2 if "8bit" in facts.optimizer else 8 if "adam" in facts.optimizer else 4 if "sgd" in facts.optimizer else 8
    if facts.half and facts.zero_stage:
        each += 4
    elif facts.badam:
        each += 8  # an fp32 copy of the block and of its gradient
    if facts.offload_optimizer:
        return 0
    return each * trained // (facts.gpus if facts.zero_stage else 1)


def _galore_bytes(facts: Facts) -> int:
    """Two moments of rank ``r`` and a projection for each linear layer of the decoder, two full moments elsewhere."""
    shape, r = facts.student, facts.galore_rank
    h, kv, i = shape.hidden, shape.kv_width, shape.intermediate
    sides = [(h, h), (h, h), (h, kv), (h, kv), (h, i), (h, i), (h, i)]
    low_rank = shape.layers * sum(4 * r * (2 * max(side) + min(side)) for side in sides)
    projected = shape.layers * sum(a * b for a, b in sides)
    return low_rank + 8 * (trained_parameters(facts) - projected)


def activation_bytes(facts: Facts) -> int:
    """The most that forward and backward hold at once, but for the loss: the checkpoints of all layers and one layer.

    A decoder layer keeps for its backward pass, for each token and with ``e`` bytes a number: two norms with their
    fp32 copies (16 h), attention with keys and values repeated for every head (7 e h), the MLP (4 e i); its backward
    pass adds 3 e i + 2 e h.
    """
    shape, e = facts.student, 2 if facts.half else 4
    tokens = facts.batch * facts.row_tokens
    kept = tokens * (16 * shape.hidden + 7 * e * shape.hidden + 4 * e * shape.intermediate)
    working = tokens * (3 * e * shape.intermediate + 2 * e * shape.hidden)
    if facts.checkpointing:
        decoder = shape.layers * tokens * shape.hidden * e + kept + working
    else:
        decoder = shape.layers * kept + working
    return max(decoder, vision_bytes(shape, facts.batch * facts.image_tokens, e)) + gathered_bytes(facts, shape, e)


def vision_bytes(shape: ModelShape, image_tokens: int, e: int) -> int:
    """What the frozen vision tower holds at once: one block over all patches."""
    patches = image_tokens * shape.merge**2
    return patches * e * (8 * shape.vision_width + 2 * shape.vision_mlp)


def gathered_bytes(facts: Facts, shape: ModelShape, e: int) -> int:
    """What ZeRO-3 makes whole for a while: a layer and the one fetched ahead, or the embedding."""
    if facts.zero_stage != 3 or facts.gpus == 1:
        return 0
    return e * max(2 * shape.layer_parameters, shape.embedding_parameters)


def cast_bytes(facts: Facts) -> int:
    """Autocast's half-precision copies of fp32 weights, which live until the end of the forward pass."""
    return 2 * trained_parameters(facts) if facts.half and not facts.zero_stage and not facts.pure_half else 0


def loss_bytes(facts: Facts, teacher: bool) -> int:
    """The loss over the supervised tokens: logit buffers, the head's fp32 gradient and its copy in the head's type.

    Args:
        facts: The recipe.
        teacher: Whether there is a teacher's head.
    """
    shape = facts.student
    tokens = facts.batch * min(facts.new_tokens, facts.row_tokens)
    width = shape.vocabulary + (facts.teacher.vocabulary if teacher else 0)
    buffers = min(LOSS_BUFFERS, 4 * tokens * width)
    e = 2 if facts.half else 4
    trains_head = facts.finetuning == "full" and not facts.badam
    head_gradient = (4 + (e if facts.zero_stage or facts.pure_half else 4)) * shape.embedding_parameters
    heads = 0
    if facts.zero_stage == 3 and facts.gpus > 1:
        heads = e * (shape.embedding_parameters + (facts.teacher.embedding_parameters if teacher else 0))
    return buffers + head_gradient * trains_head + heads


def step_bytes(facts: Facts) -> int:
    """What AdamW's step needs beside the states: on GPUs torch works on all weights at once."""
    largest = 4 * facts.student.embedding_parameters if facts.finetuning == "full" and not facts.badam else 0
    if facts.on_cpu or facts.zero_stage or facts.galore_rank is not None:
        return 2 * largest if not facts.zero_stage else 0
    return 4 * trained_parameters(facts)


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
