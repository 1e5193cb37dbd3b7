# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Caption metrics of medical image analysis: BLEU-1..4, METEOR, ROUGE-L, CIDEr and both definitions of mBMR.

The scores equal those of ``pycocoevalcap``. Its tokenizer, METEOR (both in Java, see :mod:`.java`) and ROUGE-L run
here; BLEU and CIDEr come from one vectorised n-gram count. Without Java, :func:`plain_tokenize` splits the captions:
BLEU, ROUGE-L and CIDEr are then not comparable to the last digit, and METEOR and mBMR are None.
"""

import re
from collections.abc import Sequence
from itertools import islice

import numpy as np
from scipy.sparse import csr_array

from ..utils.boxes import convert_tags
from .answer_words import segment_chinese
from .grounding import references, safe_divide
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
    rows: Sequence[dict],
    groups: Sequence[np.ndarray],
    progress: Progress | None = None,
    *,
    by_release: bool = False,
) -> tuple[np.ndarray, str, bool]:
    """The statistics of every row; each Java program runs once for all rows. All references of a row are used.

    Tags are converted to ``<box>`` and Chinese is cut into words first, except ``by_release``. ``groups`` has the row
    indices of each corpus (one per modality), for CIDEr's document frequencies.

    Returns:
        float64 ``[rows, 10 + 23 + 3]`` (BLEU, METEOR or 0 without Java, ROUGE-L, CIDEr, 1); the tokenizer, :data:`PTB`
        or :data:`PLAIN`; whether METEOR's columns are filled.

    Raises:
        ImportError: If ``pycocoevalcap``, or jieba for Chinese, is not installed; the message names the extra.
    """
    coco_folder()
    from pycocoevalcap.rouge.rouge import Rouge

    count, rouge, report = len(rows), Rouge(), progress or (lambda stage, done, total: None)
    texts = [row["response"] for row in rows] + [text for row in rows for text in references(row)]
    if not by_release:
        texts = [segment_chinese(convert_tags(text, "qwen_vl")) for text in texts]
    has_java = java_command() is not None
    tokens = ptb_tokenize(texts) if has_java else plain_tokenize(texts)
    hypotheses, left = tokens[:count], iter(tokens[count:])
    truths = [list(islice(left, len(references(row)))) for row in rows]

    table = np.zeros((count, BLEU_COLUMNS + METEOR_COLUMNS + 3))
    table[:, -1] = 1
    if has_java:
        meteor = meteor_statistics(hypotheses, truths, lambda done: report("METEOR", done, count))
        table[:, BLEU_COLUMNS:-3] = meteor
    for row, (text, truth) in enumerate(zip(hypotheses, truths, strict=True)):
        table[row, -3] = rouge.calc_score([text], truth)
        if (row + 1) % 100 == 0 or row + 1 == count:
            report("ROUGE-L", row + 1, count)
    for number, group in enumerate(groups, start=1):
        pairs = ([texts[i] for i in group] for texts in (hypotheses, truths))
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


def ngram_statistics(hypotheses: Sequence[str], truths: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """BLEU's sufficient statistics and CIDEr of tokenized rows, with document frequencies from these references.

    ``truths`` has one or more references for each of the hypotheses.

    Returns:
        BLEU: float64 ``[rows, 10]``: number of the hypothesis' n-grams for n = 1..4, how many of them a reference
        contains (clipped counts), words of the hypothesis, words of the reference nearest in length.
        CIDEr: float64 ``[rows]``, CIDEr-D (Vedantam et al., CVPR 2015, with the Gaussian length penalty), 0 to 10.
    """
    count = len(hypotheses)
    owners = np.repeat(np.arange(count), [len(texts) for texts in truths])  # [references]
    documents = [text.split() for text in (*hypotheses, *(text for texts in truths for text in texts))]
    lengths = np.array([len(words) for words in documents], dtype=np.int64)  # [rows + references]
    ids: dict[str, int] = {}
    words = np.array([ids.setdefault(word, len(ids)) for document in documents for word in document], dtype=np.int64)
    document_ids = np.repeat(np.arange(len(documents)), lengths)  # [words]
    remaining = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words up to the document's end

    bleu, cider = np.zeros((count, BLEU_COLUMNS)), np.zeros(count)
    own, theirs = lengths[:count], lengths[count:]
    nearest = np.lexsort((theirs, np.abs(theirs - own[owners]), owners))
    bleu[:, 2 * MAX_N] = own
    bleu[:, 2 * MAX_N + 1] = theirs[nearest[np.searchsorted(owners, np.arange(count))]]
    length_gap = np.maximum(own - 1, 0)[owners] - np.maximum(theirs - 1, 0)  # CIDEr-D counts bigrams
    penalty = np.exp(-(length_gap.astype(float) ** 2) / (2 * _CIDER_SIGMA**2))

    position, ngrams = np.arange(len(words)), words
    for n in range(1, MAX_N + 1):
        if n > 1:
            fits = remaining[position] >= n
            position, ngrams = position[fits], ngrams[fits]
            ngrams = np.unique(ngrams * len(ids) + words[position + n - 1], return_inverse=True)[1]
        shape = (len(documents), ngrams.max(initial=0) + 1)
        counts = csr_array((np.ones(len(ngrams)), (document_ids[position], ngrams)), shape)
        matches, similarity = _compare_ngrams(counts, owners, count)
        bleu[:, n - 1] = np.maximum(own - n + 1, 0)
        bleu[:, MAX_N + n - 1] = matches
        cider += np.bincount(owners, similarity * penalty, minlength=count)
    return bleu, cider / np.bincount(owners, minlength=count) / MAX_N * 10


def _compare_ngrams(counts: csr_array, owners: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Clipped matches ``[rows]`` and CIDEr's clipped cosine ``[references]``.

    ``counts`` are those of each n-gram in each document. Those below ``count`` are the hypotheses, the others the
    references of the rows ``owners``.
    """
    most = csr_array((count, counts.shape[1]))  # the largest count in a row's references
    place = np.arange(len(owners)) - np.searchsorted(owners, owners)  # within the row
    for each in range(place.max() + 1):
        (chosen,) = np.nonzero(place == each)
        pick = csr_array((np.ones(len(chosen)), (owners[chosen], chosen)), (count, len(owners)))
        most = most.maximum(pick @ counts[count:])
    weights = np.log(float(count)) - np.log(np.maximum(1.0, (most > 0).sum(axis=0)))
    weighted = counts.multiply(weights).tocsr()
    truths, norms = weighted[count:], np.sqrt(weighted.power(2).sum(axis=1))
    dots = weighted[owners].minimum(truths).multiply(truths).sum(axis=1)
    return counts[:count].minimum(most).sum(axis=1), safe_divide(dots, norms[owners] * norms[count:])


def bleu_scores(sums: np.ndarray) -> np.ndarray:
    """BLEU-1..4 (Papineni et al., ACL 2002) of summed statistics, float64 ``[..., 10]`` to ``[..., 4]``."""
    totals, matches = sums[..., :MAX_N], sums[..., MAX_N : 2 * MAX_N]
    ratio = (sums[..., 2 * MAX_N] + _TINY) / (sums[..., 2 * MAX_N + 1] + _SMALL)
    precision = np.cumprod((matches + _TINY) / (totals + _SMALL), axis=-1) ** (1 / np.arange(1, MAX_N + 1))
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return precision * brevity[..., None]
