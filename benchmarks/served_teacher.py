# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

r"""Bias of a served teacher's loss: k likeliest ids and one tail against the whole vocabulary, in fp64.

    python benchmarks/served_teacher.py --json docs/benchmarks/served_teacher.json

The demo's teacher and base model on answers of the demo's test rows (images as they are, stock positions), and
synthetic logits over Qwen2-VL's vocabulary: the teacher follows a Zipf law whose exponent is 1.1 in the first row and
2.5 in the last; the student's logits are the teacher's plus Gaussian noise.
"""

import argparse
import json
from pathlib import Path

import torch

from llamafactory_clinkd.kd.loss import logits_distill_loss
from llamafactory_clinkd.kd.partition import TopLogprobs


DEMO = Path(__file__).parents[1] / "llamafactory_clinkd" / "demo"
COUNTS = (20, 100, 1000)
DIVERGENCES = (("forward_kl", None), ("reverse_kl", None), ("jsd", 0.5))
VOCABULARY, ROWS = 151_936, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--demo-rows", type=int, default=15)
    options = parser.parse_args()
    torch.manual_seed(0)
    cases = {
        "synthetic": lambda: synthetic(0.5),
        "synthetic, distant student": lambda: synthetic(2.0),
        "demo": lambda: demo(options.demo_rows),
    }
    results: list[dict[str, object]] = []
    for name, make in cases.items():
        results += compare(name, *make())
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def synthetic(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Teacher's and student's logits ``[R, V]`` over Qwen2-VL's vocabulary."""
    exponents = torch.linspace(1.1, 2.5, ROWS, dtype=torch.float64)[:, None]
    teacher = -exponents * torch.arange(1, VOCABULARY + 1, dtype=torch.float64).log()
    teacher = torch.stack([row[torch.randperm(VOCABULARY)] for row in teacher])
    return teacher, teacher + noise * torch.randn_like(teacher)


@torch.no_grad()
def demo(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the demo's teacher and base model at the positions of the answers of test rows."""
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    rows = json.loads((DEMO / "data" / "demo_test.json").read_text(encoding="utf-8"))[:count]
    logits = []
    for name in ("teacher", "base"):
        folder = DEMO / "models" / name
        processor = AutoProcessor.from_pretrained(folder)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        found = []
        for row in rows:
            question, answer = (message["content"] for message in row["messages"][-2:])
            question = question.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
            prompt = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n" + question
            prompt += "<|im_end|>\n<|im_start|>assistant\n"
            images = [Image.open(DEMO / "data" / path).convert("RGB") for path in row["images"]]
            inputs = processor(text=[prompt + answer + "<|im_end|>"], images=images, return_tensors="pt")
            length = len(processor.tokenizer(answer + "<|im_end|>")["input_ids"])
            found.append(model(**inputs).logits[0, -length - 1 : -1].double())
        logits.append(torch.cat(found))
    return logits[0], logits[1]


def compare(name: str, teacher: torch.Tensor, student: torch.Tensor) -> list[dict[str, object]]:
    """Loss and gradient of each divergence and number of ids, beside those over the whole vocabulary."""
    logprobs = teacher.log_softmax(-1)
    labels = torch.zeros(len(teacher), dtype=torch.long)
    sorted_logprobs, sorted_ids = logprobs.topk(min(max(COUNTS), teacher.shape[1]))
    results = []
    for divergence, beta in DIVERGENCES:
        options = {"alpha": 0.0, "temperature": 1.0, "divergence": divergence, "beta": beta, "on_policy": True}
        full, direction = loss_and_gradient(student, teacher, labels, options)
        for k in (k for k in COUNTS if k < teacher.shape[1]):
            values, ids = sorted_logprobs[:, :k], sorted_ids[:, :k]
            top = options | {"teacher_top": TopLogprobs(ids, values)}
            loss, gradient = loss_and_gradient(student, None, labels, top)
            cosine = torch.nn.functional.cosine_similarity(gradient, direction, dim=1)
            results.append({
                "case": name, "vocabulary": teacher.shape[1], "positions": len(teacher), "divergence": divergence,
                "k": k, "full": full, "top_k": loss, "relative_error": loss / full - 1,
                "cosine_mean": float(cosine.mean()), "cosine_min": float(cosine.min()),
                "gradient_error": float((gradient - direction).norm() / direction.norm()),
                "tail_mass": float(1 - values.exp().sum(-1).mean()),
            })  # fmt: skip
            print(json.dumps(results[-1]), flush=True)
    return results


def loss_and_gradient(student, teacher, labels, options) -> tuple[float, torch.Tensor]:
    """The divergence alone, in nats, and its gradient with respect to the student's logits."""
    student = student.clone().requires_grad_()
    found = logits_distill_loss(student, teacher, labels, **options)
    return float(found.loss.detach()), torch.autograd.grad(found.loss, student)[0]


if __name__ == "__main__":
    main()
