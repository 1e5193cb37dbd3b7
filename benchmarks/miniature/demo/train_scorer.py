# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Trains the miniature's CLIP model: whole pictures and crops of structures, each with its description.

``python -m miniature.demo.train_scorer OUT`` saves an open_clip folder. The text side keeps open_clip's own
vocabulary of 49,408 tokens, so that ``open_clip`` alone loads it; it is narrow, for these are three quarters of the
weights.
"""

import argparse
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from llamafactory_clinkd.utils.io import write_json

from ..clip_scorer import PREPROCESS, _contrastive_loss
from .corpora import SEED, SHARES, default_archive
from .draw import Source, ask_about, draw
from .pretrain_models import use_stage
from .structures import load_volumes


MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 96, "head_width": 24, "patch_size": 8},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
PICTURES, STEPS, BATCH, PEAK = 5000, 900, 96, 2e-3
OFFSET = 50_000  # of the numbers of its pictures: other views than the language models saw
JITTER = 0.06  # of a crop's edges, in parts of its sides


def make_pairs(source: Source, count: int, preprocess) -> list[tuple[torch.Tensor, str]]:
    """Draws pictures of the training slices: (pixels, caption), four pairs each.

    The whole picture with its analysis and with the description of a region, and a region's crop with its description
    and with its name.
    """
    pairs = []
    for number in range(OFFSET, OFFSET + count):
        shown = draw(source, SHARES, SEED, "pretrain", number)
        rng = np.random.default_rng([SEED, number])
        asked = ask_about(shown, rng, ("MIA", "RC", "ROC"))
        whole = Image.fromarray(shown.picture).convert("RGB")
        pixels = preprocess(whole)
        pairs.append((pixels, asked[0]["turn"][1]))
        pairs.append((pixels, asked[1]["turn"][1]))
        for item in asked[1:]:
            pairs.append((preprocess(cropped(whole, item["box"], rng)), item["turn"][1]))
    return pairs


def cropped(picture: Image.Image, box: list[int], rng: np.random.Generator) -> Image.Image:
    """The part of ``picture`` in ``box`` (thousandths), its edges moved a little."""
    x1, y1, x2, y2 = box
    moved = np.array(box) + rng.uniform(-JITTER, JITTER, 4) * np.array([x2 - x1, y2 - y1] * 2)
    left, top, right, bottom = np.clip(moved, 0, 1000) / 1000 * picture.width
    return picture.crop(
        (round(left), round(top), max(round(right), round(left) + 4), max(round(bottom), round(top) + 4))
    )


def train_scorer(folder: Path, pictures: int, steps: int) -> float:
    """Trains and saves; returns the mean loss of the last 20 steps."""
    import open_clip
    from safetensors.torch import save_file

    size = MODEL["vision_cfg"]["image_size"]
    preprocess = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(size=size, **PREPROCESS), is_train=False
    )
    tokens = open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])
    pairs = make_pairs(Source(load_volumes(default_archive(), stage=1)), pictures, preprocess)
    captions = sorted({caption for _, caption in pairs})
    encoded, number = tokens(captions), {caption: i for i, caption in enumerate(captions)}
    caption_of = torch.tensor([number[caption] for _, caption in pairs])
    choice, losses = random.Random(0), []
    torch.manual_seed(0)
    model = open_clip.CLIP(**MODEL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=steps)
    for step in range(steps):
        batch = choice.sample(range(len(pairs)), BATCH)
        chosen = caption_of[batch]
        loss = _contrastive_loss(model, torch.stack([pairs[i][0] for i in batch]), encoded[chosen], chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"scorer {step + 1}/{steps} loss {np.mean(losses[-50:]):.3f}", flush=True)

    used = torch.zeros(MODEL["text_cfg"]["vocab_size"], dtype=torch.bool)
    used[encoded.unique()] = True
    with torch.no_grad():
        model.token_embedding.weight[~used] = 0  # of words it never met: nothing was learnt
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors", {"format": "pt"})
    write_json(folder / "open_clip_config.json", {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS})
    return float(np.mean(losses[-20:]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    use_stage(1)  # it was trained beside the first stage of the language models
    began = time.time()
    last = train_scorer(args.folder, args.pictures, args.steps)
    print(f"loss {last:.3f}, {time.time() - began:.0f} s")
    write_json(args.folder / "training.json", {"loss": last, "seconds": time.time() - began, "steps": args.steps})
