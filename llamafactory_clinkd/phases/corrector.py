# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The recipe's corrector, and the scorer of its candidates."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..correct import Corrector, check_similarity, make_corrector
from ..select import Scorer, check_scorer, load_scorer
from ..utils.boxes import strip_boxes


def check_correction(settings: Any) -> None:
    """Finds, before the first phase, what would stop the run after its first round; loads no model.

    Raises:
        ValueError: See :func:`recipe_corrector`, and if the similarity has a model that it does not take.
        ImportError: If a library, or the packaged sentence model, is not installed.
        ScorerError: If ``correction_scorer`` names none.
    """
    if settings.correction_rounds > 1:  # one round has nothing to correct for
        recipe_corrector(settings)
        check_similarity(settings.correction_similarity, settings.correction_similarity_model)
        if settings.correction_scorer:
            check_scorer(settings.correction_scorer)


def recipe_corrector(settings: Any) -> Corrector:
    """Builds the corrector that the ClinKD keys name.

    Raises:
        ValueError: If the server is not on this machine and may not be used, or its key is missing.
        ImportError: If its client is not installed.
    """
    return make_corrector(
        settings.corrector,
        model=settings.correction_model,
        base_url=settings.correction_base_url,
        candidates=settings.correction_candidates,
        concurrency=settings.correction_concurrency,
        max_requests=settings.correction_max_requests,
        allow_remote=settings.correction_allow_remote,
        prompt_path=settings.correction_prompt,
    )


class ImageTextScore:
    """The CLIP score of a row's image and a wording as a cosine in [-1, 1], the scale of the text similarity.

    Boxes and tags are taken out of the wording first. What has no image, or no words, scores 0.

    Args:
        scorer: From :func:`llamafactory_clinkd.select.load_scorer`; one that reads images.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.name = scorer.short_name
        self._scorer = scorer

    def scores(self, image: Any, texts: Sequence[str]) -> list[float]:
        """The score of each text for the image at the path ``image``; the image is encoded once."""
        words = [strip_boxes(text) for text in texts]
        if not image or not any(words):
            return [0.0] * len(texts)
        with Image.open(image) as opened:
            found = self._scorer.score([opened.convert("RGB")], [words])[0]
        return [score / 100 if worded else 0.0 for score, worded in zip(found, words, strict=True)]


def recipe_scorer(settings: Any) -> ImageTextScore | None:
    """Loads what ``correction_scorer`` names, or nothing.

    Raises:
        ScorerError: If it cannot be loaded; the message says how to get it.
    """
    return ImageTextScore(load_scorer(settings.correction_scorer)) if settings.correction_scorer else None
