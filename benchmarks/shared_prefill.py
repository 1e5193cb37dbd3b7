# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Beam search with one prefill a row, as phases `pseudo_label` and `predict` run it, against stock's one a beam.

    python benchmarks/shared_prefill.py [--device cuda] [--dtype bf16] [--json FILE]

Rows with an image each, a random model with the widths of Qwen2-VL-2B and fewer layers. The two ways take turns;
medians count. The answers of both are compared.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from kd_step_methods import SHAPES, VOCABULARY
from memory import measure
from qwen2vl import qwen2vl_config
from shared_tower import IMAGE, VIDEO, VISION
from transformers import Qwen2VLForConditionalGeneration
from ways import report

from llamafactory_clinkd.generation import shared_prefill


START = 151652  # `generate` counts images by it


def build_model(layers: int, dtype: torch.dtype, device: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = qwen2vl_config(
        **SHAPES["2b"] | {"layers": layers},
        kv_heads=2,
        vocab_size=VOCABULARY,
        tokens={"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START},
        vision=VISION | {"depth": layers},
        tie_word_embeddings=True,
    )
    return Qwen2VLForConditionalGeneration(config).to(dtype).to(device).eval()


def build_batch(rows: int, side: int, text: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Rows of a square image of ``side`` pixels and ``text`` tokens."""
    patches = side // VISION["patch_size"]
    image = torch.full((rows, patches**2 // VISION["spatial_merge_size"] ** 2), IMAGE)
    parts = [torch.full((rows, 1), START), image, torch.randint(0, 150000, (rows, text))]
    ids = torch.cat(parts, dim=1).to(device)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": torch.randn(rows * patches**2, 3 * 2 * VISION["patch_size"] ** 2).to(device, dtype),
        "image_grid_thw": torch.tensor([[1, patches, patches]] * rows, device=device),
    }


def generate(model: torch.nn.Module, batch: dict[str, Any], beams: int, answer: int, *, shared: bool) -> torch.Tensor:
    settings = {"num_beams": beams, "min_new_tokens": answer, "max_new_tokens": answer, "do_sample": False}
    with torch.no_grad(), shared_prefill.shared_prefill(model, beams if shared else 1) as active:
        assert active == shared
        return model.generate(**batch, **settings, pad_token_id=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4, help="questions in a batch")
    parser.add_argument("--side", type=int, default=504, help="pixels of the square image")
    parser.add_argument("--text", type=int, default=64, help="tokens after the image")
    parser.add_argument("--answer", type=int, default=24, help="new tokens")
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--layers", type=int, default=8, help="of the language model, and of the vision tower")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each after one that warms up")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    model = build_model(options.layers, dtype, options.device)
    batch = build_batch(options.rows, options.side, options.text, dtype, options.device)

    ways = {"one a beam (stock)": False, "one a row": True}
    measured: dict[str, list[Any]] = {name: [] for name in ways}
    answers: dict[str, torch.Tensor] = {}
    for repeat in range(options.repeats + 1):
        for name, shared in ways.items():
            found = measure(
                lambda shared=shared: generate(model, batch, options.beams, options.answer, shared=shared),
                options.device,
            )
            answers[name] = found.value
            if repeat:
                measured[name].append(found)
    same = torch.equal(*answers.values())
    title = f"{options.rows} rows of {len(batch['input_ids'][0])} tokens, {options.beams} beams"
    report(measured, options, heads=(title, "prefills", "stock"), equal="The answers" if same else "")


if __name__ == "__main__":
    main()
