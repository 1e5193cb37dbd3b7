# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A small open_clip model trained on the user's own (image, caption) pairs.

Tests train it in seconds. The demo's scorer is one like it: ``demo/train_scorer.py``.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from llamafactory_clinkd.utils.io import write_json


MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 96, "head_width": 24, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}


def train_demo_scorer(
    pairs: Sequence[tuple[str | Path, str]],
    out_dir: str | Path,
    *,
    steps: int = 300,
    seed: int = 0,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    advance: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> list[float]:
    """Trains the model contrastively (Radford et al. 2021) and saves it as an open_clip folder.

    Pairs with equal captions in a batch count as positives of each other: one organ's caption fits many slices.

    Args:
        pairs: (image file, caption) pairs, at least two with different captions; take boxes out of the captions.
        out_dir: Gets ``open_clip_config.json`` and ``open_clip_model.safetensors``; give it to ``load_scorer``.
        steps: Optimiser steps.
        seed: Of weights and batches; the caller's random state is left as it is.
        batch_size: Pairs per step.
        learning_rate: Peak of AdamW's one-cycle schedule.
        advance: Called after each step with (steps done, steps, loss).

    Returns:
        The loss of each step.

    Raises:
        ValueError: If there are fewer than two different captions.
    """
    import open_clip
    from safetensors.torch import save_file

    if len({caption for _, caption in pairs}) < 2:
        raise ValueError(f"A contrast needs at least two different captions; found {len(pairs)} pairs without.")

    preprocess = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(size=MODEL["vision_cfg"]["image_size"], **PREPROCESS), is_train=False
    )
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])
    names = sorted({str(image) for image, _ in pairs})
    pixels = torch.stack([preprocess(Image.open(name).convert("RGB")) for name in names])
    captions = sorted({caption for _, caption in pairs})
    tokens = tokenizer(captions)
    image_of = torch.tensor([names.index(str(image)) for image, _ in pairs])
    caption_of = torch.tensor([captions.index(caption) for _, caption in pairs])

    losses = []
    choice = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**MODEL)
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 2))
        for step in range(steps):
            batch = torch.tensor(choice.sample(range(len(pairs)), min(batch_size, len(pairs))))
            loss = _contrastive_loss(model, pixels[image_of[batch]], tokens[caption_of[batch]], caption_of[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            advance(step + 1, steps, losses[-1])

    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out_dir / "open_clip_model.safetensors")
    # The configuration comes last: where it is, the weights are whole.
    write_json(out_dir / "open_clip_config.json", {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS})
    return losses


def _contrastive_loss(model, pixels: torch.Tensor, tokens: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """Cross-entropy both ways against the uniform distribution over pairs with the same caption."""
    images, texts, scale = model(pixels, tokens)[:3]
    logits = scale.clamp(max=100) * images @ texts.T  # [b, b]
    same = (captions[:, None] == captions[None]).float()
    target = same / same.sum(dim=1, keepdim=True)
    return (
        torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
    ) / 2
