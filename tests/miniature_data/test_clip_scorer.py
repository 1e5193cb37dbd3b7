# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import torch
from miniature.clip_scorer import train_demo_scorer
from PIL import Image

from llamafactory_clinkd.select import load_scorer


@pytest.fixture
def pairs(tmp_path):
    """Images whose bright quarter is told by the caption."""
    quarters = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(24):
        name, (y, x) = list(quarters.items())[i % 4]
        values = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        values[y * 32 : y * 32 + 32, x * 32 : x * 32 + 32] += 150
        path = tmp_path / f"scan_{i}.png"
        Image.fromarray(values).save(path)
        pairs.append((path, f"The bright part is {name}."))
    return pairs


def test_learns_which_caption_belongs_to_an_image(pairs, tmp_path):
    before = torch.get_rng_state()
    shown = []
    losses = train_demo_scorer(
        pairs[:16], tmp_path / "scorer", steps=40, seed=1, batch_size=16, advance=lambda *step: shown.append(step)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert len(losses) == 40 and losses[-1] < 0.7 * losses[0]
    assert shown == [(step, 40, loss) for step, loss in enumerate(losses, 1)]

    scorer = load_scorer(str(tmp_path / "scorer"))
    captions = sorted({caption for _, caption in pairs})
    scores = scorer.score([Image.open(path) for path, _ in pairs[16:]], [captions] * 8)
    hits = sum(captions[int(np.argmax(row))] == caption for row, (_, caption) in zip(scores, pairs[16:], strict=True))
    assert hits >= 6  # of 8 images that it never saw; chance is 2


def test_the_seed_decides(pairs, tmp_path):
    weights = []
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        train_demo_scorer(pairs[:4], tmp_path / name, steps=2, seed=seed)
        weights.append(load_scorer(str(tmp_path / name)).identity["weights_sha256"])
    assert weights[0] == weights[1] != weights[2]


def test_a_configuration_means_that_the_weights_are_whole(pairs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        train_demo_scorer(pairs[:4], tmp_path / "scorer", steps=1)
    assert not (tmp_path / "scorer" / "open_clip_config.json").exists()


def test_one_caption_is_no_contrast(pairs, tmp_path):
    with pytest.raises(ValueError, match="two different captions; found 2 pairs"):
        train_demo_scorer([pairs[0], pairs[4]], tmp_path / "scorer")
