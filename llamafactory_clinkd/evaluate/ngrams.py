# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""BLEU and CIDEr from counts of n-grams, over whole corpora at once.

``pycocoevalcap`` keeps a dictionary of n-grams for every caption; here n-grams are integers and the counts are sorted
arrays, which 30,000 long captions fit into memory as. The numbers are the same (tests compare to 1e-9), and the
sufficient statistics of BLEU stay at hand for bootstrap resampling.
"""

from collections.abc import Sequence

import numpy as np


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
