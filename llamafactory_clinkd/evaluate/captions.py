# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Caption metrics of medical image analysis: BLEU-1..4, METEOR, ROUGE-L, CIDEr and both definitions of mBMR.

The scores equal those of ``pycocoevalcap``. Its tokenizer, METEOR (both in Java, see :mod:`.java`) and ROUGE-L run
here; BLEU and CIDEr come from one vectorised n-gram count. Without Java, :func:`plain_tokenize` splits the captions:
BLEU, ROUGE-L and CIDEr are then not comparable to the last digit, and METEOR and mBMR are None.
"""

import re
from collections.abc import Sequence

import numpy as np

from ..utils.boxes import convert_tags
from .grounding import safe_divide
from .java import METEOR_COLUMNS, Progress, coco_folder, java_command, meteor_score, meteor_statistics, ptb_tokenize


PTB, PLAIN = "PTB (CoreNLP 3.4.1)", "words and punctuation (no Java found)"
NO_JAVA = "METEOR is missing, and so is mBMR: no `java` on the PATH (Debian: apt-get install default-jre-headless)."

MAX_N = 4  # n-grams of 1 to 4 words
BLEU_COLUMNS = 2 * MAX_N + 2
_CIDER_SIGMA = 6.0  # width of CIDEr-D's length penalty
_SMALL, _TINY = 1e-9, 1e-15  # smoothing constants of the COCO evaluation code

_PUNCTUATION = {"'", '"', "`", "(", ")", "{", "}", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
_TOKEN = re.compile(r"\w+(?:[.,]\d+)*(?:[-'/]\w+)*|--|\.\.\.|[^\w\s]")


def caption_statistics(
    rows: Sequence[dict], groups: Sequence[np.ndarray], progress: Progress | None = None
) -> tuple[np.ndarray, str, bool]:
    """The statistics of every row, whose tags are converted to ``<box>``; each Java program runs once for all rows.

    ``groups`` has the row indices of each corpus (one per modality), for CIDEr's document frequencies.

    Returns:
        float64 ``[rows, 10 + 23 + 3]`` (BLEU, METEOR or 0 without Java, ROUGE-L, CIDEr, 1); the tokenizer, :data:`PTB`
        or :data:`PLAIN`; whether METEOR's columns are filled.

    Raises:
        ImportError: If ``pycocoevalcap`` is not installed; the message names the extra.
    """
    coco_folder()
    from pycocoevalcap.rouge.rouge import Rouge

    count, rouge, report = len(rows), Rouge(), progress or (lambda stage, done, total: None)
    texts = [convert_tags(row[side], "qwen_vl") for side in ("response", "annotation") for row in rows]
    has_java = java_command() is not None
    tokens = ptb_tokenize(texts) if has_java else plain_tokenize(texts)
    hypotheses, references = tokens[:count], tokens[count:]

    table = np.zeros((count, BLEU_COLUMNS + METEOR_COLUMNS + 3))
    table[:, -1] = 1
    if has_java:
        meteor = meteor_statistics(hypotheses, references, lambda done: report("METEOR", done, count))
        table[:, BLEU_COLUMNS:-3] = meteor
    for row, pair in enumerate(zip(hypotheses, references, strict=True)):
        table[row, -3] = rouge.calc_score(*([text] for text in pair))
        if (row + 1) % 100 == 0:
            report("ROUGE-L", row + 1, count)
    for number, group in enumerate(groups, start=1):
        pairs = ([texts[i] for i in group] for texts in (hypotheses, references))
        table[group, :BLEU_COLUMNS], table[group, -2] = ngram_statistics(*pairs)
        report("BLEU and CIDEr", number, len(groups))
    return table, PTB if has_java else PLAIN, has_java


def caption_scores(sums: np.ndarray, has_meteor: bool) -> dict[str, np.ndarray | None]:
    """Every caption metric of summed statistics ``[..., 36]``, each ``[...]``, in [0, 1] except CIDEr (0 to 10).

    ``value`` is mBMR as in the released code, the mean of BLEU-1..4, METEOR and ROUGE-L. ``mbmr_bird`` is mBMR as in
    BiRD's paper, the mean of BLEU-4, METEOR and ROUGE-L. Both are None without METEOR.
    """
    bleu = bleu_scores(sums[..., :BLEU_COLUMNS])
    rouge, cider = sums[..., -3] / sums[..., -1], sums[..., -2] / sums[..., -1]
    scores: dict[str, np.ndarray | None] = {f"bleu_{n}": bleu[..., n - 1] for n in range(1, MAX_N + 1)}
    scores.update(meteor=None, rouge_l=rouge, cider=cider, value=None, mbmr_bird=None)
    if has_meteor:
        meteor = meteor_score(sums[..., BLEU_COLUMNS:-3])
        scores["meteor"] = meteor
        scores["value"] = (bleu.sum(axis=-1) + meteor + rouge) / 6
        scores["mbmr_bird"] = (bleu[..., 3] + meteor + rouge) / 3
    return scores


def plain_tokenize(texts: Sequence[str]) -> list[str]:
    """The tokenizer used without Java: lower-case words; decimals and hyphenated words whole, no punctuation."""
    return [" ".join(token for token in _TOKEN.findall(text.lower()) if token not in _PUNCTUATION) for text in texts]


def ngram_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """BLEU's sufficient statistics and CIDEr of tokenized pairs, with document frequencies from these references.

    Returns:
        BLEU: float64 ``[pairs, 10]``: number of the hypothesis' n-grams for n = 1..4, how many of them the reference
        contains (clipped counts), words of the hypothesis, words of the reference.
        CIDEr: float64 ``[pairs]``, CIDEr-D (Vedantam et al., CVPR 2015, with the Gaussian length penalty), 0 to 10.
    """
    count = len(hypotheses)
    documents = [text.split() for text in (*hypotheses, *references)]
    lengths = np.array([len(words) for words in documents], dtype=np.int64)  # [2 * pairs]
    ids: dict[str, int] = {}
    words = np.array([ids.setdefault(word, len(ids)) for document in documents for word in document], dtype=np.int64)
    document_ids = np.repeat(np.arange(2 * count), lengths)  # [words]
    remaining = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words up to the document's end

    bleu, cider = np.zeros((count, BLEU_COLUMNS)), np.zeros(count)
    bleu[:, 2 * MAX_N], bleu[:, 2 * MAX_N + 1] = lengths[:count], lengths[count:]
    length_gap = np.maximum(lengths[:count] - 1, 0) - np.maximum(lengths[count:] - 1, 0)  # CIDEr-D counts bigrams
    penalty = np.exp(-(length_gap.astype(float) ** 2) / (2 * _CIDER_SIGMA**2))

    position, ngrams = np.arange(len(words)), words
    for n in range(1, MAX_N + 1):
        if n > 1:
            fits = remaining[position] >= n
            position, ngrams = position[fits], ngrams[fits]
            ngrams = np.unique(ngrams * len(ids) + words[position + n - 1], return_inverse=True)[1]
        matches, similarity = _compare_ngrams(document_ids[position], ngrams, count)
        bleu[:, n - 1] = np.maximum(lengths[:count] - n + 1, 0)
        bleu[:, MAX_N + n - 1] = matches
        cider += similarity * penalty
    return bleu, cider / MAX_N * 10


def _compare_ngrams(document_ids: np.ndarray, ngrams: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Clipped matches and CIDEr's clipped cosine of ``count`` pairs; documents i and count + i are pair i."""
    if not len(ngrams):
        return np.zeros(count), np.zeros(count)
    size = int(ngrams.max()) + 1
    keys, counts = np.unique(document_ids * size + ngrams, return_counts=True)
    documents, distinct = keys // size, keys % size
    frequency = np.bincount(distinct[documents >= count], minlength=size)
    weights = counts * (np.log(float(count)) - np.log(np.maximum(1.0, frequency)))[distinct]
    norms = np.sqrt(np.bincount(documents, weights**2, minlength=2 * count))

    split = np.searchsorted(keys, count * size)
    _, h, r = np.intersect1d(keys[:split], keys[split:] - count * size, assume_unique=True, return_indices=True)
    rows, r = documents[h], r + split
    matches = np.bincount(rows, np.minimum(counts[h], counts[r]), minlength=count)
    dots = np.bincount(rows, np.minimum(weights[h], weights[r]) * weights[r], minlength=count)
    return matches, safe_divide(dots, norms[:count] * norms[count:])


def bleu_scores(sums: np.ndarray) -> np.ndarray:
    """BLEU-1..4 (Papineni et al., ACL 2002) of summed statistics, float64 ``[..., 10]`` to ``[..., 4]``."""
    totals, matches = sums[..., :MAX_N], sums[..., MAX_N : 2 * MAX_N]
    ratio = (sums[..., 2 * MAX_N] + _TINY) / (sums[..., 2 * MAX_N + 1] + _SMALL)
    precision = np.cumprod((matches + _TINY) / (totals + _SMALL), axis=-1) ** (1 / np.arange(1, MAX_N + 1))
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return precision * brevity[..., None]
