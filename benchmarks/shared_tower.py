# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A LoRA teacher over the student's own base: the vision tower once a step against once for each of the two.

    python benchmarks/shared_tower.py [--device cuda] [--dtype bf16] [--json FILE]

Forward and backward of one row with an image, a random model in the shape of Qwen2-VL-2B (675 M parameters of vision
tower, 28 layers, hidden size 1536), rank 8 on the attention of the language model. The two ways take turns; medians
count. Losses and gradients of both are compared.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from kd_step_methods import ALPHA, SHAPES, TEMPERATURE, VOCABULARY
from memory import measure
from peft import LoraConfig, get_peft_model
from qwen2vl import qwen2vl_config
from transformers import Qwen2VLForConditionalGeneration
from ways import report

from llamafactory_clinkd.kd.adapter_teacher import AdapterTeacher
from llamafactory_clinkd.kd.loss import distill_loss
from llamafactory_clinkd.training.lm_head import supervised_positions
from llamafactory_clinkd.utils.patching import patch_instance


IMAGE, VIDEO = 151655, 151656
VISION = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14, "spatial_merge_size": 2}
LORA = {"r": 8, "target_modules": r".*language_model.*(q_proj|k_proj|v_proj|o_proj)", "init_lora_weights": False}


def build_model(dtype: torch.dtype, device: str) -> torch.nn.Module:
    """Base, student's adapter (active) and teacher's adapter in one ``PeftModel``."""
    torch.manual_seed(0)
    config = qwen2vl_config(
        **SHAPES["2b"],
        kv_heads=2,
        vocab_size=VOCABULARY,
        tokens={"image_token_id": IMAGE, "video_token_id": VIDEO},
        vision=VISION,
        tie_word_embeddings=True,
    )
    model = get_peft_model(Qwen2VLForConditionalGeneration(config).to(dtype), LoraConfig(**LORA))
    model.add_adapter("teacher", LoraConfig(**LORA))
    return model.to(device).train()


def build_batch(side: int, text: int, answer: int, dtype: torch.dtype, device: str) -> tuple[dict[str, Any], Any]:
    """One row: a square image of ``side`` pixels, then ``text`` tokens of which the last ``answer`` are supervised."""
    patches = side // VISION["patch_size"]
    image = torch.full((1, patches**2 // VISION["spatial_merge_size"] ** 2), IMAGE)
    ids = torch.cat([image, torch.randint(0, 150000, (1, text))], dim=1).to(device)
    labels = torch.full_like(ids, -100)
    labels[:, -answer:] = ids[:, -answer:]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": torch.randn(patches**2, 3 * 2 * VISION["patch_size"] ** 2).to(device, dtype),
        "image_grid_thw": torch.tensor([[1, patches, patches]], device=device),
    }
    return inputs, labels


def step(model: torch.nn.Module, teacher: AdapterTeacher, inputs: dict[str, Any], labels: torch.Tensor) -> float:
    """Loss and gradients as the trainer computes them."""
    kept, targets = supervised_positions(labels)
    head, found = model.get_output_embeddings(), []
    hidden_t = teacher.hidden(inputs, kept).flatten(0, 1)

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        options = {"alpha": ALPHA, "temperature": TEMPERATURE}
        weight = head.weight
        found.append(distill_loss(hidden.flatten(0, 1), weight, hidden_t, weight, targets.flatten(), **options).loss)
        return found[0].view(1, 1, 1)

    with patch_instance(head, "forward", forward), teacher.student_pass(inputs):
        loss = model(**inputs, logits_to_keep=kept, use_cache=False).logits.view(())
    loss.backward()
    return loss.item()


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    """What the step left; taken away."""
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=504, help="pixels of the square image")
    parser.add_argument("--text", type=int, default=128, help="tokens after the image")
    parser.add_argument("--answer", type=int, default=50, help="of which the last are supervised")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each after one that warms up")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    model = build_model(dtype, options.device)
    batch = build_batch(options.side, options.text, options.answer, dtype, options.device)
    apart = AdapterTeacher(model, ["teacher"])
    shared = AdapterTeacher(model, ["teacher"])
    shared.prepare(Accelerator(cpu=options.device == "cpu"))

    ways = {"once for each": apart, "once for both": shared}
    measured: dict[str, list[Any]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for repeat in range(options.repeats + 1):
        for name, teacher in ways.items():
            found = measure(lambda teacher=teacher: step(model, teacher, *batch), options.device)
            results[name] = found.value, gradients(model)
            if repeat:
                measured[name].append(found)
    (loss, expected), (other, grads) = (results[name] for name in ways)
    same = loss == other and all(torch.equal(a, b) for a, b in zip(expected, grads, strict=True))
    title = f"{len(batch[0]['input_ids'][0])} tokens, {len(batch[0]['pixel_values'])} patches"
    report(measured, options, heads=(title, "vision tower", "apart"), equal="Loss and gradients" if same else "")


if __name__ == "__main__":
    main()
