# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

r"""Pretrains the miniature: one vision tower for both sizes, then the teacher and the base on the frozen tower.

``python -m miniature.demo.pretrain_models tower|teacher|base``; each resumes from its checkpoint.
Of two stages (``--stage``) the second has wider views, fewer structures and more of the CT. See ``rebuild.sh``.
A coordinate is one token (``\p{N}{1,3}``), pointing is
learnt with a little smoothing over neighbouring coordinates, and all tasks are asked from the first step on.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llamafactory_clinkd.rope.mcg import mcg

from .. import tokenizer
from ..loop import batches, train
from ..model_inputs import IGNORED, collate, encode
from ..models import ModelSize, build_demo_models
from ..vision import SeenTower, see, train_tower
from . import corpora, draw
from .corpora import Pictures, default_archive, make_pictures
from .draw import GRID
from .structures import load_volumes


BASE, TEACHER = ModelSize(hidden=128, layers=3), ModelSize(hidden=192, layers=3)
SEEN_BY = {"teacher": ("brain_mr", "body_ct", "body_mr"), "base": ("brain_mr",)}
SMOOTHING = 1.0  # standard deviation of the target over neighbouring coordinates, in steps of the grid


def words_with_numbers() -> str:
    """Qwen's pattern, but up to three digits together: a coordinate is one token."""
    return tokenizer.WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def coordinates() -> list[str]:
    """Every number that a box can hold."""
    return [f"{min(round(1000 * edge / GRID), 999):03d}" for edge in range(GRID + 1)]


def untrained(work: Path, corpus: Pictures) -> dict[str, Path]:
    """Saves both models untrained, with the tokenizer that reads a coordinate as one token."""
    tokenizer.WORDS = words_with_numbers()
    texts = [message["content"] for row in corpus.messages for message in row]
    numbers = ["\n".join(coordinates())] * len(texts)
    folders = build_demo_models(work, texts + numbers, base=BASE, teacher=TEACHER)
    return folders


def smooth_targets(tokens, size: int) -> torch.Tensor:
    """``[vocabulary, vocabulary]``: what to learn for each right token; that token itself but for coordinates."""
    ids = tokens.convert_tokens_to_ids(coordinates())
    assert len(set(ids)) == GRID + 1 and tokens.unk_token_id not in ids and None not in ids
    places = torch.arange(GRID + 1)
    kernel = torch.exp(-((places[:, None] - places[None]) ** 2) / (2 * SMOOTHING**2))
    table = torch.eye(size)
    index = torch.tensor(ids)
    table[index[:, None], index[None]] = kernel / kernel.sum(dim=1, keepdim=True)
    return table


def train_answers(
    model, processor, corpus: Pictures, seen: torch.Tensor, rows: np.ndarray, both_positions: bool, **options
):
    """Trains language model and merger on conversations ``rows``.

    Args:
        model: A small Qwen2-VL.
        processor: Its processor.
        corpus: The pictures' conversations.
        seen: The tower's output for each picture.
        rows: The pictures that it learns from.
        both_positions: Whether every other batch has MCG-RoPE's positions, so that the model works with either.
        **options: ``steps``, ``peak``, ``checkpoint``, ``batch_size``, ``seed``, ``advance``.
    """
    inner, tokens = model.model, processor.tokenizer
    encoded = {int(row): encode(corpus.messages[row], tokens) for row in rows}
    pad, image = tokens.pad_token_id, tokens.convert_tokens_to_ids("<|image_pad|>")
    batch = batches(len(rows), options.pop("batch_size"), options.pop("seed"))
    table, side, tower = smooth_targets(tokens, len(tokens)), round(seen.shape[1] ** 0.5), inner.visual

    def loss_of(step: int) -> torch.Tensor:
        chosen = rows[batch(step)]
        grid = torch.tensor([[1, side, side]]).repeat(len(chosen), 1)
        inputs = collate([encoded[int(row)] for row in chosen], pad, image)
        labels = inputs.pop("labels")
        if both_positions and step % 2:
            types = inputs["mm_token_type_ids"]
            inputs["position_ids"], _ = mcg(
                types, image_grid_thw=grid, attention_mask=inputs["attention_mask"], merge_size=1
            )
        with torch.autocast("cpu", torch.bfloat16):  # a step takes two thirds of the time; the weights stay float32
            pixels = seen[chosen].float().flatten(0, 1)
            hidden = inner(pixel_values=pixels, image_grid_thw=grid, **inputs).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        answers = wanted != IGNORED
        logits = model.lm_head(hidden[answers].float())
        return F.cross_entropy(logits, table[wanted[answers]])

    inner.visual = SeenTower(tower)
    try:
        model.train()
        return train(model, loss_of, **options)
    finally:
        inner.visual = tower
        model.eval()


def use_stage(stage: int) -> None:
    """Sets what the two stages of pretraining differ in: views, least size, scans and tasks of the pictures."""
    draw.MAX_SHIFT, draw.ZOOM, draw.MIN_AREA = ((0.13, (0.75, 1.35), 0.012), (0.2, (0.7, 1.5), 0.016))[stage - 1]
    if stage == 2:
        SEEN_BY["base"] = ("brain_mr", "body_mr")
        corpora.SHARES = {"brain_mr": 0.2, "body_ct": 0.6, "body_mr": 0.2}
        corpora.TASKS = {"VG": 0.55, "ROC": 0.22, "RC": 0.15, "MIA": 0.08}
        corpora.SEED = 2000


def start_from(model, checkpoint: Path) -> None:
    """Takes language model and merger from a checkpoint of the training loop; the tower stays."""
    own = dict(model.named_parameters())
    with safe_open(checkpoint, framework="pt") as file, torch.no_grad():
        for key in file.keys():  # noqa: SIM118
            name = key.removeprefix("parameter/")
            if name != key and (not name.startswith("model.visual.") or ".merger." in name):
                own[name].copy_(file.get_tensor(key))


def main() -> None:
    """Trains one part."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("tower", "teacher", "base"))
    parser.add_argument("--work", type=Path, default=Path("runs/demo-models"))
    parser.add_argument("--pictures", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--stage", type=int, default=1, choices=(1, 2))
    parser.add_argument("--start", type=Path, help="a checkpoint whose parameters to start from")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    began = time.time()
    use_stage(args.stage)
    corpus = make_pictures(load_volumes(default_archive(), args.stage), args.pictures)
    print(f"{args.pictures} pictures drawn in {time.time() - began:.0f} s", flush=True)

    def advance(step: int, steps: int, loss: float) -> None:
        if step % 25 == 0 or step == steps:
            print(f"{args.part} {step}/{steps} loss {loss:.3f} {time.time() - began:.0f} s", flush=True)

    if args.part == "tower":
        if args.stage == 1:
            folders = untrained(args.work, corpus)
        else:
            folders = {name: args.work / name for name in ("base", "teacher")}
        loaded = {name: AutoModelForImageTextToText.from_pretrained(folder) for name, folder in folders.items()}
        processor = AutoProcessor.from_pretrained(folders["base"])
        tower = loaded["base"].model.visual
        loss = train_tower(  # in stage 2 `tower` is the one of stage 1; the head that names cells begins anew
            tower, corpus, processor, steps=args.steps, checkpoint=args.work / f"tower{args.stage}.safetensors",
            peak=args.peak, seed=args.stage - 1, advance=advance,
        )  # fmt: skip
        kept = {name: value for name, value in tower.state_dict().items() if not name.startswith("merger.")}
        for name, model in loaded.items():
            model.model.visual.load_state_dict(kept, strict=False)
            model.save_pretrained(folders[name])
    else:
        folder = args.work / args.part
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        processor = AutoProcessor.from_pretrained(folder)
        if args.start:
            start_from(model, args.start)
        rows = corpus.of(SEEN_BY[args.part])
        seen = torch.zeros(len(corpus.pictures), 64, model.config.vision_config.embed_dim, dtype=torch.float16)
        kept = args.work / f"seen{args.stage}_{args.part}_{args.pictures}.safetensors"
        if kept.is_file():
            seen = load_file(kept)["seen"]
        else:
            seen[rows] = see(model.model.visual, corpus.pictures[rows], processor)
            save_file({"seen": seen}, kept)
        print(f"seen in {time.time() - began:.0f} s", flush=True)
        loss = train_answers(
            model, processor, corpus, seen, rows, both_positions=args.part == "base", steps=args.steps, peak=args.peak,
            checkpoint=args.work / f"{args.part}.safetensors", batch_size=8, seed=1, advance=advance,
        )  # fmt: skip
        model.save_pretrained(args.work / f"{args.part}_trained")
        processor.save_pretrained(args.work / f"{args.part}_trained")
    records = {
        "part": args.part,
        "steps": args.steps,
        "loss": loss,
        "seconds": time.time() - began,
        "pictures": args.pictures,
    }
    (args.work / f"{args.part}.json").write_text(json.dumps(records))


if __name__ == "__main__":
    main()
