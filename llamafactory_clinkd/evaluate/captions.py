# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0


"""Caption metrics of medical image analysis: BLEU-1..4, METEOR, ROUGE-L, CIDEr and the two definitions of mBMR.

The numbers are those of ``pycocoevalcap``, whose tokenizer, METEOR (both Java) and ROUGE-L run here; BLEU and CIDEr
come from :mod:`.ngrams`. Without Java, captions are split by :func:`plain_tokenize`, so BLEU, ROUGE-L and CIDEr go on
but are not comparable to the last digit, and METEOR, and with it mBMR, is missing.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..utils.boxes import convert_tags
from .java import METEOR_COLUMNS, java_command, meteor_score, meteor_statistics, one_line, ptb_tokenize


PTB, PLAIN = "PTB (CoreNLP 3.4.1)", "words and signs (no Java found)"

NO_JAVA = "METEOR is missing, and mBMR with it: no `java` on the path (Debian: apt-get install default-jre-headless)."

_DROPPED = {"'", '"', "`", "(", ")", "{", "}", ".", "?", "!", ",", ":", "-", "--", "...", ";"}

_TOKEN = re.compile(r"\w+(?:[.,]\d+)*(?:[-'/]\w+)*|--|\.\.\.|[^\w\s]")


class CaptionStatistics(NamedTuple):
    """Per-row statistics of captions, float64.

    Attributes:
        table: ``[rows, 10 + 23 + 3]``: BLEU's, METEOR's (zeros without Java), ROUGE-L, CIDEr, 1.
        tokenizer: Which tokenizer split the captions.
        has_meteor: Whether METEOR's columns are filled.
    """

    table: np.ndarray
    tokenizer: str
    has_meteor: bool


def plain_tokenize(texts: Sequence[str]) -> list[str]:
    """The tokenizer used where there is no Java.

    Lower-case words; decimal numbers and hyphenated words are kept whole, and ``pycocoevalcap``'s signs are dropped.
    """
    return [" ".join(token for token in _TOKEN.findall(text.lower()) if token not in _DROPPED) for text in texts]


def caption_statistics(
    rows: Sequence[dict], groups: Sequence[np.ndarray], progress: Callable[[str, int, int], None] | None = None
) -> CaptionStatistics:
    """The statistics of every row, Java run once for all.

    Args:
        rows: Rows with ``annotation`` and ``response``; tags of both are brought to one style (``<box>``).
        groups: Row numbers of each corpus (a modality each), for CIDEr's document frequencies.
        progress: Called with the stage, the pairs done and all pairs.

    Raises:
        ImportError: If ``pycocoevalcap`` is not installed.
    """
    count = len(rows)
    report = progress or (lambda stage, done, total: None)
    texts = [one_line(convert_tags(row[side], "qwen_vl")) for side in ("response", "annotation") for row in rows]
    has_java = java_command() is not None
    tokens = ptb_tokenize(texts) if has_java else plain_tokenize(texts)
    hypotheses, references = tokens[:count], tokens[count:]

    table = np.ones((count, BLEU_COLUMNS + METEOR_COLUMNS + 3))
    meteor = slice(BLEU_COLUMNS, BLEU_COLUMNS + METEOR_COLUMNS)
    if has_java:
        table[:, meteor] = meteor_statistics(hypotheses, references, lambda done: report("METEOR", done, count))
    else:
        table[:, meteor] = 0
    table[:, -3] = _rouge(hypotheses, references, report)
    for number, group in enumerate(groups, start=1):
        sides = ([texts[i] for i in group] for texts in (hypotheses, references))
        table[group, :BLEU_COLUMNS], table[group, -2] = ngram_statistics(*sides)
        report("BLEU and CIDEr", number, len(groups))
    return CaptionStatistics(table, PTB if has_java else PLAIN, has_java)


def caption_scores(sums: np.ndarray, has_meteor: bool) -> dict[str, np.ndarray | None]:
    """Every caption metric of summed statistics ``[..., 36]``, each ``[...]``, in [0, 1] but for CIDEr (0 to 10).

    ``value`` is mBMR as the released code computes it, the mean of BLEU-1 to 4, METEOR and ROUGE-L; ``mbmr_bird`` is
    that of BiRD's paper, the mean of BLEU-4, METEOR and ROUGE-L. Both are None where METEOR is missing.
    """
    bleu = bleu_scores(sums[..., :BLEU_COLUMNS])
    rouge, cider = sums[..., -3] / sums[..., -1], sums[..., -2] / sums[..., -1]
    parts: dict[str, np.ndarray | None] = {f"bleu_{n}": bleu[..., n - 1] for n in range(1, 5)}
    parts.update(meteor=None, rouge_l=rouge, cider=cider, value=None, mbmr_bird=None)
    if has_meteor:
        meteor = meteor_score(sums[..., BLEU_COLUMNS : BLEU_COLUMNS + METEOR_COLUMNS])
        parts["meteor"] = meteor
        parts["value"] = (bleu.sum(axis=-1) + meteor + rouge) / 6
        parts["mbmr_bird"] = (bleu[..., 3] + meteor + rouge) / 3
    return parts


def _rouge(
    hypotheses: Sequence[str], references: Sequence[str], report: Callable[[str, int, int], None]
) -> list[float]:
    """ROUGE-L of each pair, by ``pycocoevalcap``."""
    from pycocoevalcap.rouge.rouge import Rouge

    scorer, scores = Rouge(), []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        scores.append(scorer.calc_score([hypothesis], [reference]))
        if len(scores) % 100 == 0:
            report("ROUGE-L", len(scores), len(hypotheses))
    return scores


ORDER = 4  # n-grams of 1 to 4 words

BLEU_COLUMNS = 2 * ORDER + 2

_SIGMA = 6.0  # width of CIDEr-D's length penalty

_SMALL, _TINY = 1e-9, 1e-15  # the smoothing of the COCO evaluation code


def ngram_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """BLEU's sufficient statistics and CIDEr of each pair; document frequencies are those of these references.

    Args:
        hypotheses: Tokenized outputs, a blank between tokens.
        references: As many tokenized references.

    Returns:
        BLEU: float64 ``[pairs, 10]``: n-grams of the hypothesis for n = 1..4, those of them that the reference has
        (clipped counts), words of the hypothesis, words of the reference.
        CIDEr: float64 ``[pairs]``, CIDEr-D (Vedantam et al., CVPR 2015, with the Gaussian length penalty), 0 to 10.
    """
    count = len(hypotheses)
    documents = [text.split() for text in (*hypotheses, *references)]
    lengths = np.array([len(words) for words in documents], dtype=np.int64)  # [2 * pairs]
    ids: dict[str, int] = {}
    words = np.array([ids.setdefault(word, len(ids)) for document in documents for word in document], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(2 * count), lengths)  # the document of each word
    room = np.repeat(starts + lengths, lengths) - np.arange(len(words))  # words from here to the document's end

    bleu = np.zeros((count, BLEU_COLUMNS))
    bleu[:, 2 * ORDER], bleu[:, 2 * ORDER + 1] = lengths[:count], lengths[count:]
    gap = np.maximum(lengths[:count] - 1, 0) - np.maximum(lengths[count:] - 1, 0)  # CIDEr-D counts bigrams
    penalty = np.exp(-(gap.astype(float) ** 2) / (2 * _SIGMA**2))
    cider = np.zeros(count)

    place = np.arange(len(words))
    gram = words
    for n in range(1, ORDER + 1):
        if n > 1:
            fits = room[place] >= n
            place, gram = place[fits], gram[fits]
            gram = np.unique(gram * len(ids) + words[place + n - 1], return_inverse=True)[1]
        correct, similarity = _compare(owner[place], gram, count)
        bleu[:, n - 1] = np.maximum(lengths[:count] - n + 1, 0)
        bleu[:, ORDER + n - 1] = correct
        cider += similarity * penalty
    return bleu, cider / ORDER * 10


def _compare(owner: np.ndarray, gram: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Clipped matches and CIDEr's clipped cosine, each ``[count]``, for the n-grams of one order.

    Args:
        owner: ``[grams]``: the document of each n-gram; pair i's hypothesis is document i, its reference count + i.
        gram: ``[grams]``: the n-gram's number.
        count: Number of pairs.
    """
    if not len(gram):
        return np.zeros(count), np.zeros(count)
    size = int(gram.max()) + 1
    keys, counts = np.unique(owner * size + gram, return_counts=True)
    documents, kinds = keys // size, keys % size
    frequency = np.bincount(kinds[documents >= count], minlength=size)
    weights = counts * (np.log(float(count)) - np.log(np.maximum(1.0, frequency)))[kinds]
    norms = np.sqrt(np.bincount(documents, weights**2, minlength=2 * count))

    split = np.searchsorted(keys, count * size)
    _, h, r = np.intersect1d(keys[:split], keys[split:] - count * size, assume_unique=True, return_indices=True)
    rows, r = documents[h], r + split
    correct = np.bincount(rows, np.minimum(counts[h], counts[r]), minlength=count)
    dots = np.bincount(rows, np.minimum(weights[h], weights[r]) * weights[r], minlength=count)
    scale = norms[:count] * norms[count:]
    return correct, np.divide(dots, scale, out=np.zeros(count), where=scale > 0)


def bleu_scores(sums: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 of a corpus (Papineni et al., ACL 2002), with the COCO code's smoothing constants.

    Args:
        sums: float64 ``[..., 10]``, sums over rows of BLEU's statistics.

    Returns:
        float64 ``[..., 4]``.
    """
    guessed, correct = sums[..., :ORDER], sums[..., ORDER : 2 * ORDER]
    ratio = (sums[..., 2 * ORDER] + _TINY) / (sums[..., 2 * ORDER + 1] + _SMALL)
    precision = np.cumprod((correct + _TINY) / (guessed + _SMALL), axis=-1) ** (1 / np.arange(1, ORDER + 1))
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return precision * brevity[..., None]
