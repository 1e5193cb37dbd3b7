# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Scores a candidate against its image with an open_clip model, or by the generating model's own probability."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from ..utils.clip import (
    BIOMED_CLIP,
    OPEN_CLIP_CONFIG,
    TEXT_TOWER_HELP,
    find_clip,
    folder_help,
    local_text_tower,
    weights_sha256,
)
from ..utils.io import read_json
from ..utils.pixels import rgb_pixels
from .consensus import ConsensusScorer, LogprobScorer
from .fit import load_weighted


DEFAULT_SCORER = BIOMED_CLIP
WITHOUT_MODEL = {"logprob": LogprobScorer, "consensus": ConsensusScorer}
_HUB_HELP = (
    "The weights are downloaded on first use, from the network or a filled cache. On a machine without network, copy "
    f"the model's folder ({OPEN_CLIP_CONFIG} and weights) there and give its path as the scorer. {TEXT_TOWER_HELP}"
)
_LOGPROB_HELP = (
    "Or set `sasg_scorer: logprob`, which ranks by the model's own log-probability; it is not the paper's CLIP score."
)


class ScorerError(RuntimeError):
    """A scorer cannot be loaded; the message explains how to get it."""


class Scorer(Protocol):
    """A scorer for :func:`.rank.select_rows`."""

    identity: dict[str, Any]  # name, source, library and a SHA-256 of the weights, for the records
    short_name: str  # the same in one line, for tables and rows
    reads_images: bool  # whether to call `score`; otherwise `score_rows`, which takes rows and returns `RowScores`


class ClipScorer:
    """100 * cosine(image, text) of an open_clip model (Radford et al. 2021; CLIPScore without its clipping at 0).

    ``preprocess`` is the model's inference transform: PIL image -> ``[3, height, width]``; ``tokenizer`` maps texts to
    ``[n, context]`` and cuts longer ones. For ``identity`` and ``short_name`` see :class:`Scorer`.
    """

    reads_images = True

    def __init__(self, model, preprocess, tokenizer, identity: dict[str, Any], short_name: str, device: str) -> None:
        self.model = model.eval().to(device)
        self.preprocess, self.tokenizer, self.device = preprocess, tokenizer, device
        self.identity, self.short_name = identity, short_name

    @torch.no_grad()
    def score(self, images: Sequence[Image.Image], texts_per_image: Sequence[Sequence[str]]) -> list[list[float]]:
        """Scores in [-100, 100], one for each text of each image, from one pass of each tower.

        Texts with equal tokens, such as long ones whose first 77 are equal, are encoded once: their scores are equal.
        """
        if len(images) != len(texts_per_image):
            raise ValueError(f"Found {len(images)} images and {len(texts_per_image)} lists of texts: give one each.")
        column = {text: i for i, text in enumerate(dict.fromkeys(t for texts in texts_per_image for t in texts))}
        if not column:
            return [[] for _ in images]
        pixels = torch.stack([self.preprocess(rgb_pixels(image)) for image in images]).to(self.device)
        image_features = self.model.encode_image(pixels, normalize=True)  # [b, d]
        tokens, place = torch.unique(self.tokenizer(list(column)), dim=0, return_inverse=True)
        text_features = self.model.encode_text(tokens.to(self.device), normalize=True)  # [n, d]
        scores = (100 * image_features.float() @ text_features.float().T).cpu()  # [b, n]
        return [
            [scores[row, place[column[text]]].item() for text in texts] for row, texts in enumerate(texts_per_image)
        ]


def load_scorer(name: str = DEFAULT_SCORER, *, device: str = "cpu") -> Scorer:
    """Loads a scorer by name.

    Args:
        name: One of

            - ``hf-hub:ORGANISATION/MODEL``: an open_clip model of the Hugging Face hub (BiomedCLIP is the default);
            - a folder with ``open_clip_config.json`` and weights, as open_clip saves it, and with ``config.json`` and
              tokenizer files if its text tower is a transformers model;
            - ``ARCHITECTURE@PRETRAINED``, e.g. ``ViT-B-32@laion2b_s34b_b79k``: one of open_clip's own names with one
              of its tags, or with a path to weights;
            - ``logprob``: the generating model's own log-probability, which is not the paper's CLIP score;
            - ``consensus``: the mean similarity to the other candidates, which is not the paper's CLIP score either;
            - a file ``*.json`` of ``clinkd select --fit``: a weighted sum of the others.
        device: Where the model runs.

    Raises:
        ScorerError: If it cannot be loaded; there is no silent fallback.
    """
    if name in WITHOUT_MODEL:
        return WITHOUT_MODEL[name]()
    check_scorer(name)
    if name.endswith(".json"):
        return load_weighted(Path(name), functools.partial(load_scorer, device=device))
    import open_clip

    model_name, pretrained = find_clip(name)
    advice = _HUB_HELP
    if model_name.startswith("hf-hub:"):
        short_name = name.removeprefix("hf-hub:")
        identity = {"name": name, "kind": "open_clip, Hugging Face hub"}
    elif model_name.startswith("local-dir:"):
        path = Path(model_name.removeprefix("local-dir:"))
        short_name, advice = path.name, folder_help(path)
        identity = {"name": path.name, "kind": "open_clip, local folder"}
    else:
        weights = Path(pretrained).name
        short_name = f"{model_name}@{weights}"
        identity = {"name": model_name, "kind": "open_clip, named weights", "weights": weights}

    text_tower = local_text_tower(model_name)
    try:  # weights are required, so that no randomly initialised model ever scores
        model, preprocess = open_clip.create_model_from_pretrained(model_name, pretrained, device=device, **text_tower)
        tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:  # open_clip, huggingface_hub, timm and torch each raise their own kinds here
        raise ScorerError(
            f"The scorer {model_name!r} cannot be loaded ({type(error).__name__}: {error}). {advice} {_LOGPROB_HELP}"
        ) from error
    sha256 = weights_sha256(model)
    identity |= {"library": f"open_clip_torch {open_clip.__version__}", "weights_sha256": sha256}
    return ClipScorer(model, preprocess, tokenizer, identity, f"{short_name} ({sha256[:8]})", device)


def check_scorer(name: str) -> None:
    """Raises the ``ScorerError`` of :func:`load_scorer` for every problem that shows before weights are loaded."""
    if name in WITHOUT_MODEL:
        return
    if name.endswith(".json"):
        if not Path(name).is_file():
            raise ScorerError(f"There is no file {name}. Write it with `clinkd select --fit`.")
        for part in read_json(name).get("scorers", {}):
            check_scorer(part)
        return
    try:
        find_clip(name)
    except ImportError as error:
        raise ScorerError(
            f"The scorer {name!r} needs open_clip: pip install 'llamafactory-clinkd[clip]'. Without it, "
            "`sasg_scorer: logprob` ranks by the model's own log-probability."
        ) from error
    except FileNotFoundError as error:
        raise ScorerError(f"The scorer {name!r} cannot be loaded: {error} {_HUB_HELP} {_LOGPROB_HELP}") from error
    except ValueError as error:
        others = "`logprob`, `consensus` or a `*.json` of weights"
        raise ScorerError(f"Unknown scorer {name!r}: {error} Other scorers are {others}.") from error
