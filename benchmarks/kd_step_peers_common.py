# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What the methods of ``kd_step_peers.py`` share: models, batch, measuring, and the fp64 gradient to compare with.

Runs in the peers' environments too, so it needs only torch and transformers.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from memory import Measured, measure


SLICE = 2**24  # weights compared at once


class Method(NamedTuple):
    """A trainer, and the weights of cross-entropy and forward KL in its objective at temperature 1."""

    title: str
    run: Callable[[dict[str, Any], "Recorder"], str]
    environment: str
    ce: float
    kl: float
    images: bool = True


class Recorder:
    """What each step costs, and the gradient's error after the last one."""

    def __init__(self, case: dict[str, Any], method: Method) -> None:
        self.case, self.method = case, method
        self.error: float | None = None
        self.wanted = case["steps"] + 1
        self.found: list[Measured] = []

    def step(self, call: Callable[[], Any], model: Any) -> Any:
        """Measures one step, which leaves its gradients in ``model``; the loss."""
        self.found.append(measure(call))
        if len(self.found) == self.wanted and (self.method.ce or self.method.kl):
            self.error = gradient_error(model, self.case, self.method)
        return self.found[-1].value

    def result(self, version: str) -> dict[str, Any]:
        """The steps after the one that warms up."""
        if len(self.found) != self.wanted:
            raise RuntimeError(f"{len(self.found)} steps were made, not {self.wanted}.")
        names = ("seconds", "cpu_seconds", "peak_mib")
        steps = [{name: getattr(each, name) for name in names} for each in self.found[1:]]
        loss = float(self.found[-1].value)
        return {"steps": steps, "loss": loss, "gradient_error": self.error, "version": version}


def gradient_error(model: Any, case: dict[str, Any], method: Method) -> float:
    """Relative L2 distance of all gradients from the method's own objective in fp64.

    Raises:
        ValueError: If other weights have gradients than in the reference.
    """
    from safetensors import safe_open

    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    kind = "" if method.images else "text_"
    distance = norm = 0.0
    with contextlib.ExitStack() as stack:
        parts = [
            (weight, stack.enter_context(safe_open(Path(case["folder"]) / f"{kind}{part}.safetensors", "pt")))
            for part, weight in (("ce", method.ce), ("kl", method.kl))
            if weight
        ]
        if gradients.keys() != set(parts[0][1].keys()):
            raise ValueError(f"Gradients differ in {sorted(gradients.keys() ^ set(parts[0][1].keys()))[:5]}.")
        for name, gradient in gradients.items():
            exact = sum(weight * part.get_tensor(name) for weight, part in parts).flatten()
            for is_, should in zip(gradient.flatten().split(SLICE), exact.split(SLICE), strict=True):
                distance += (is_.double() - should.double()).square().sum().item()
                norm += should.double().square().sum().item()
    return (distance / norm) ** 0.5


def load_models(case: dict[str, Any]) -> list[Any]:
    """Student and teacher; the vision tower and the teacher are frozen."""
    from transformers import Qwen2VLForConditionalGeneration

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[case["dtype"]]
    models = [
        Qwen2VLForConditionalGeneration.from_pretrained(Path(case["folder"]) / name, dtype=dtype)
        for name in ("student", "teacher")
    ]
    for name, parameter in models[0].named_parameters():
        parameter.requires_grad_("visual" not in name)
    models[1].requires_grad_(False).eval()
    return models


def load_batch(case: dict[str, Any]) -> dict[str, Any]:
    """Token ids, labels, mask, pixels and token types; positions are the model's own to compute."""
    return torch.load(Path(case["folder"]) / "batch.pt")


@contextlib.contextmanager
def each_training_step(replacement: Callable[..., Any]) -> Iterator[None]:
    """Inside, transformers' trainers call ``replacement(stock, trainer, model, inputs, num_items)``."""
    from transformers import Trainer

    stock = Trainer.training_step
    Trainer.training_step = lambda self, model, inputs, items=None: replacement(stock, self, model, inputs, items)
    try:
        yield
    finally:
        Trainer.training_step = stock


def save_batch(case: dict[str, Any], inputs: dict[str, Any], config: Any) -> None:
    """Keeps what every method trains on; refuses a batch of another shape than asked for."""
    labels = inputs["labels"]
    supervised = (labels != -100).sum(1).tolist()
    if labels.shape != (case["rows"], case["length"]) or set(supervised) != {case["answer"]}:
        raise ValueError(f"The batch has shape {tuple(labels.shape)} and {supervised} supervised tokens a row.")
    batch = {key: inputs[key] for key in ("input_ids", "attention_mask", "labels", "pixel_values", "image_grid_thw")}
    batch["mm_token_type_ids"] = (batch["input_ids"] == config.image_token_id).int()
    torch.save(inputs["position_ids"], Path(case["folder"]) / "positions.pt")
    torch.save(batch, Path(case["folder"]) / "batch.pt")


def save_reference(case: dict[str, Any]) -> None:
    """Writes the fp64 gradients of cross-entropy and forward KL, with the images and without, rounded to fp32."""
    from safetensors.torch import save_file
    from torch.nn.functional import cross_entropy, kl_div

    (student, teacher), batch = load_models(case), load_batch(case)
    targets = batch.pop("labels")[:, -case["answer"] :].flatten()
    kinds = {"": batch, "text_": {key: batch[key] for key in ("input_ids", "attention_mask")}}

    def log_probabilities(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        inputs = {key: each.double() if each.is_floating_point() else each for key, each in inputs.items()}
        logits = model(**inputs, logits_to_keep=case["answer"] + 1, use_cache=False).logits
        return logits[:, :-1].flatten(0, 1).log_softmax(-1)

    teacher.double()
    with torch.no_grad():
        exact = {kind: log_probabilities(teacher, inputs) for kind, inputs in kinds.items()}
    del teacher
    student.double().train()
    for kind, inputs in kinds.items():
        losses = {
            "ce": lambda found: cross_entropy(found, targets),
            "kl": lambda found, kind=kind: kl_div(found, exact[kind], log_target=True, reduction="batchmean"),
        }
        for part, loss in losses.items():
            if (kind, part) == ("text_", "ce"):
                continue
            loss(log_probabilities(student, inputs)).backward()
            gradients = {name: each.grad.float() for name, each in student.named_parameters() if each.grad is not None}
            save_file(gradients, Path(case["folder"]) / f"{kind}{part}.safetensors")
            student.zero_grad(set_to_none=True)
            del gradients
