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
from .ngrams import BLEU_COLUMNS, bleu_scores, ngram_statistics


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
