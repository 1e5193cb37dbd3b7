# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llamafactory_clinkd.evaluate.captions import bleu_scores, ngram_statistics


bleu = pytest.importorskip("pycocoevalcap.bleu.bleu", reason="needs the extra 'eval'")
cider = pytest.importorskip("pycocoevalcap.cider.cider", reason="needs the extra 'eval'")

captions = st.lists(st.sampled_from("the liver is big and round".split()), max_size=12).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(captions, captions), min_size=1, max_size=12))
def test_equal_to_pycocoevalcap(pairs):
    hypotheses, references = zip(*pairs, strict=True)
    assume(any(references))  # pycocoevalcap's CIDEr raises when no reference has a word
    theirs = {i: [text] for i, text in enumerate(references)}, {i: [text] for i, text in enumerate(hypotheses)}
    statistics, cider_each = ngram_statistics(hypotheses, [[text] for text in references])

    corpus, each = bleu.Bleu(4).compute_score(*theirs, verbose=0)
    np.testing.assert_allclose(bleu_scores(statistics.sum(axis=0)), corpus, rtol=0, atol=1e-9)
    np.testing.assert_allclose(bleu_scores(statistics).T, each, rtol=0, atol=1e-9)
    np.testing.assert_allclose(cider_each, cider.Cider().compute_score(*theirs)[1], rtol=0, atol=1e-9)


def test_bleu_by_hand():
    """Two of three words right, and the one bigram of "a b" is right; the hypothesis is longer: no brevity penalty."""
    statistics, _ = ngram_statistics(["a b c"], [["a b"]])
    assert statistics[0].tolist() == [3, 2, 1, 0, 2, 1, 0, 0, 3, 2]
    assert bleu_scores(statistics[0])[:2] == pytest.approx([2 / 3, (2 / 3 * 1 / 2) ** 0.5], abs=1e-8)


def test_brevity_penalty_by_hand():
    statistics, _ = ngram_statistics(["a b"], [["a b c d"]])
    assert bleu_scores(statistics[0])[0] == pytest.approx(np.exp(1 - 4 / 2), abs=1e-7)


def test_repeated_words_are_clipped():
    statistics, _ = ngram_statistics(["the the the"], [["the cat"]])
    assert statistics[0, 4] == 1


def test_no_words_at_all():
    statistics, each = ngram_statistics(["", ""], [[""], [""]])
    assert not statistics.any()
    assert not each.any()


several = st.lists(captions, min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(captions, several), min_size=1, max_size=8))
def test_several_references_equal_pycocoevalcap(rows):
    hypotheses, references = zip(*rows, strict=True)
    assume(any(any(texts) for texts in references))
    theirs = dict(enumerate(references)), {i: [text] for i, text in enumerate(hypotheses)}
    statistics, cider_each = ngram_statistics(hypotheses, references)
    corpus, each = bleu.Bleu(4).compute_score(*theirs, verbose=0)
    np.testing.assert_allclose(bleu_scores(statistics.sum(axis=0)), corpus, rtol=0, atol=1e-9)
    np.testing.assert_allclose(bleu_scores(statistics).T, each, rtol=0, atol=1e-9)
    np.testing.assert_allclose(cider_each, cider.Cider().compute_score(*theirs)[1], rtol=0, atol=1e-9)
