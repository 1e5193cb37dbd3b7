# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Memory of each phase on one GPU: weights, gradients, optimiser, teacher, activations, loss, generation.

docs/planning.md has the bytes per parameter of each engine, and compares the sums with measured runs.
"""

from ..arguments import TRAINING_PHASES
from .model_shape import ModelShape
from .recipe_spec import PSEUDO_LABEL_BEAMS, RecipeSpec


# CUDA's context, workspaces of cuBLAS and NCCL, and the allocator's fragmentation; assumed, not measured
RUNTIME_BYTES = 2**30
SCORE_COPIES = 5  # fp32 arrays [rows, V] that beam search holds: logits, log-probabilities, sums, sorted, best
COMPONENTS = (
    "weights", "gradients", "optimiser", "teacher", "projection", "activations", "loss", "generation", "runtime",
)  # fmt: skip


def memory_by_phase(spec: RecipeSpec) -> dict[str, dict[str, int]]:
    """Phase -> component (:data:`COMPONENTS`) -> bytes at the phase's peak, with the sum under ``peak``."""
    memory = {}
    for phase in spec.keys["clinkd_phases"]:
        if phase != "evaluate" and (phase in TRAINING_PHASES or not spec.is_served(phase)):  # the others need no GPU
            breakdown = dict.fromkeys(COMPONENTS, 0) | _phase_memory(spec, phase)
            breakdown["runtime"] = 0 if spec.on_cpu else RUNTIME_BYTES
            memory[phase] = {**breakdown, "peak": sum(breakdown.values())}
    return memory


def _phase_memory(spec: RecipeSpec, phase: str) -> dict[str, int]:
    if phase == "distill":
        return _training_memory(spec, with_teacher=spec.distils)
    if phase == "correct":
        return _correction_memory(spec)
    if phase == "pseudo_label":
        shape, name, bits, beams = spec.teacher, "teacher", spec.ref_model_quantization_bit, PSEUDO_LABEL_BEAMS
    else:
        shape, name, bits, beams = spec.student, "weights", spec.quantization_bit, spec.keys["sasg_candidates"]
    generation = generation_bytes(spec, shape, max(beams, spec.num_beams))
    return {name: model_bytes(shape, spec, bits), "generation": generation}


def _training_memory(spec: RecipeSpec, *, with_teacher: bool) -> dict[str, int]:
    """The larger of two moments: the loss's backward pass, and the optimiser's step with all gradients."""
    fixed = {"weights": weight_bytes(spec), "optimiser": optimizer_bytes(spec)}
    if with_teacher and not spec.teacher_shares_weights:  # with `kd_cache: hidden`, too: epoch 1 fills the cache
        whole = model_bytes(spec.teacher, spec, spec.ref_model_quantization_bit)
        fixed["teacher"] = offloaded_bytes(spec.teacher, spec) if spec.keys["kd_teacher_offload"] else whole
    if with_teacher and spec.keys["kd_method"] == "vkd":
        fixed["projection"] = projection_bytes(spec.student.hidden, spec.teacher.hidden)
    gradients = gradient_bytes(spec)
    backward = {
        "gradients": gradients if spec.gradient_accumulation_steps > 1 or spec.zero_stage else 0,
        "activations": activation_bytes(spec) + (2 * trained_parameters(spec) if spec.casts_weights else 0),
        "loss": loss_bytes(spec, with_teacher),
    }
    step = {"gradients": gradients, "activations": step_bytes(spec)}
    return {**fixed, **_larger(backward, step)}


def projection_bytes(student: int, teacher: int) -> int:
    """VkD's projection between two widths, in fp32 and whole on every GPU.

    The weight, its gradient and two moments, and eight square matrices of the larger width: the base of the
    parametrization and, in the Cayley map's forward or backward pass, at most seven others.
    """
    return 4 * (4 * student * teacher + 8 * max(student, teacher) ** 2)


def _correction_memory(spec: RecipeSpec) -> dict[str, int]:
    """The larger of training, and of generating between two rounds beside weights and optimiser.

    The student generates its answers, and with ``corrector: teacher`` the teacher its rewordings.
    """
    training = _training_memory(spec, with_teacher=False)
    held = {name: training[name] for name in ("weights", "optimiser")}
    moments, beams = [training], max(1, spec.num_beams)
    if spec.keys["correction_rounds"] > 1:
        if spec.keys["correction_outputs"] == "generate" and not spec.is_served("correct"):
            moments.append(held | {"generation": generation_bytes(spec, spec.student, beams)})
        if spec.keys["corrector"] == "teacher":
            teacher = model_bytes(spec.teacher, spec, spec.ref_model_quantization_bit)
            moments.append(held | {"teacher": teacher, "generation": generation_bytes(spec, spec.teacher, beams)})
    return _larger(*moments)


def _larger(*breakdowns: dict[str, int]) -> dict[str, int]:
    return max(breakdowns, key=lambda breakdown: sum(breakdown.values()))


def trained_parameters(spec: RecipeSpec) -> int:
    """Parameters that have a gradient and an optimiser state (with BAdam: at any one time)."""
    shape = spec.student
    if spec.finetuning_type == "lora":
        return shape.lora_parameters(spec.lora_rank)
    if spec.use_badam:
        return shape.layer_parameters
    projector = 0 if spec.freeze_multi_modal_projector else shape.merger_parameters
    if spec.finetuning_type == "freeze":
        return min(abs(spec.freeze_trainable_layers), shape.layers) * shape.layer_parameters + projector
    vision = 0 if spec.freeze_vision_tower else shape.vision_parameters
    return shape.decoder_parameters + projector + vision


def weight_bytes(spec: RecipeSpec) -> int:
    """The student's weights on one GPU while it is trained."""
    trained = trained_parameters(spec)
    if spec.finetuning_type == "lora":
        return model_bytes(spec.student, spec, spec.quantization_bit) + 4 * trained
    frozen = spec.student.parameters - trained
    return sharded(spec.trained_dtype_bytes * trained + spec.dtype_bytes * frozen, spec)


def model_bytes(shape: ModelShape, spec: RecipeSpec, bits: int | None) -> int:
    """Weights of a frozen model on one GPU: the teacher, or the base under adapters."""
    if bits is None:
        return sharded(spec.dtype_bytes * shape.parameters, spec)
    packed = shape.linear_parameters * (bits / 8 + (0.016 if bits == 4 else 0.002))  # with the scale of each block
    return int(packed + spec.dtype_bytes * (shape.parameters - shape.linear_parameters))


def offloaded_bytes(shape: ModelShape, spec: RecipeSpec) -> int:
    """What ``kd_teacher_offload`` leaves on the GPU at once: the embeddings, one layer, or the head for the loss."""
    largest = max(shape.embedding_parameters, shape.layer_parameters)
    return spec.dtype_bytes * (shape.parameters if spec.on_cpu else largest)  # on the CPU nothing moves


def sharded(total: int, spec: RecipeSpec) -> int:
    """Bytes on one GPU, of ``total`` bytes of weights."""
    if spec.offload_weights:
        return 0
    return total // spec.gpus if spec.zero_stage == 3 else total


def gradient_bytes(spec: RecipeSpec) -> int:
    """Gradients between micro-batches."""
    total = spec.trained_dtype_bytes * trained_parameters(spec)
    return total // spec.gpus if spec.zero_stage >= 2 else total


def optimizer_bytes(spec: RecipeSpec) -> int:
    """States of the optimiser, with the fp32 weights that it holds under ZeRO and BAdam."""
    trained, optim = trained_parameters(spec), spec.optim
    if spec.use_galore:  # two moments of the rank and a projection for each decoder matrix, two full moments elsewhere
        layer = sum(4 * spec.galore_rank * (2 * max(s) + min(s)) for s in spec.student.layer_linears)
        projected = sum(rows * columns for rows, columns in spec.student.layer_linears)
        return spec.student.layers * (layer - 8 * projected) + 8 * trained
    per_parameter = 2 if "8bit" in optim else 4 if "sgd" in optim and "adam" not in optim else 8
    if spec.half and spec.zero_stage:
        per_parameter += 4
    elif spec.use_badam:
        per_parameter += 8  # an fp32 copy of the block and of its gradient
    if spec.offload_optimizer:
        return 0
    return per_parameter * trained // (spec.gpus if spec.zero_stage else 1)


def activation_bytes(spec: RecipeSpec) -> int:
    """The peak of forward and backward without the loss: the checkpoints of all layers, and one layer.

    With ``e`` bytes per number, a decoder layer saves for its backward pass per token: two norms with their fp32
    copies (16 h), attention with keys and values repeated for every head (7 e h), the MLP (4 e i); its backward pass
    adds 3 e i + 2 e h.
    """
    shape, e = spec.student, spec.dtype_bytes
    tokens = spec.per_device_train_batch_size * spec.row_tokens
    saved = tokens * (16 * shape.hidden + 7 * e * shape.hidden + 4 * e * shape.intermediate)
    backward = tokens * (3 * e * shape.intermediate + 2 * e * shape.hidden)
    if spec.disable_gradient_checkpointing:
        decoder = shape.layers * saved + backward
    else:
        decoder = shape.layers * tokens * shape.hidden * e + saved + backward
    vision = _vision_bytes(shape, spec.per_device_train_batch_size * spec.image_tokens, e)
    return max(decoder, vision) + _gathered_bytes(spec, shape)


def _vision_bytes(shape: ModelShape, image_tokens: int, dtype_bytes: int) -> int:
    """The peak of the frozen vision tower: one block over all patches."""
    return image_tokens * shape.merge**2 * dtype_bytes * (8 * shape.vision_width + 2 * shape.vision_mlp)


def _gathered_bytes(spec: RecipeSpec, shape: ModelShape) -> int:
    """What ZeRO-3 gathers for a while: a layer and the prefetched one, or the embedding."""
    if spec.zero_stage != 3 or spec.gpus == 1:
        return 0
    return spec.dtype_bytes * max(2 * shape.layer_parameters, shape.embedding_parameters)


def loss_bytes(spec: RecipeSpec, with_teacher: bool) -> int:
    """The loss over the supervised tokens: logit buffers, the head's fp32 gradient and its copy in the head's type."""
    from ..kd.fused_linear import CHUNK_BYTES

    heads = [spec.student, spec.teacher] if with_teacher else [spec.student]
    tokens = spec.per_device_train_batch_size * min(spec.max_new_tokens, spec.row_tokens)
    buffers = min(CHUNK_BYTES, 4 * tokens * sum(shape.vocabulary for shape in heads))
    head_gradient = (4 + spec.trained_dtype_bytes) * spec.student.embedding_parameters * spec.trains_head
    if spec.zero_stage != 3 or spec.gpus == 1:
        return buffers + head_gradient
    return buffers + head_gradient + spec.dtype_bytes * sum(shape.embedding_parameters for shape in heads)


def step_bytes(spec: RecipeSpec) -> int:
    """What AdamW's step needs beside the states: on GPUs torch updates all weights at once."""
    if spec.zero_stage:
        return 0
    if spec.on_cpu or spec.use_galore:
        return 8 * spec.student.embedding_parameters * spec.trains_head
    return 4 * trained_parameters(spec)


def generation_bytes(spec: RecipeSpec, shape: ModelShape, beams: int) -> int:
    """The peak of one ``generate`` call beside the weights, with ``beams`` beams or samples per question.

    Prompt and images of a question run once, whatever the beams; then the cache is repeated.
    """
    rows, e = spec.per_device_eval_batch_size, spec.dtype_bytes
    sequences, prompt = rows * beams, max(1, spec.row_tokens - spec.answer_tokens)
    layer_cache = 2 * shape.kv_width * e  # keys and values of one token
    prompt_cache = rows * prompt * shape.layers * layer_cache
    cache = sequences * (prompt + spec.max_new_tokens) * (shape.layers + 1) * layer_cache  # one layer is reordered
    forward = rows * prompt * (6 * e * shape.hidden + 8 * shape.hidden + 3 * e * shape.intermediate)
    scores = SCORE_COPIES * sequences * shape.vocabulary * 4
    vision = _vision_bytes(shape, rows * spec.image_tokens, e)
    return max(prompt_cache + forward, cache + scores, vision) + _gathered_bytes(spec, shape)
