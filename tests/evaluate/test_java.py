# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import sys

import numpy as np
import pytest

from llamafactory_clinkd.evaluate import java


pytest.importorskip("pycocoevalcap", reason="needs the extra 'eval'")
pytestmark = pytest.mark.usefixtures("own_meteor")
needs_java = pytest.mark.skipif(java.java_command() is None, reason="no `java` on the path")

REFERENCES = [
    "The liver, on the (left) side, is 3.5 cm large.",
    "A tumour near the aorta: bright - and round!",
    "two lesions",
    "The heart's border; it isn't clear...",
    "Ünïcode — “quoted” 肝",
    "a\nb\u2028c",
    "",
    "the kidney is here",
]
HYPOTHESES = [
    "The liver on the left side is large.",
    "A tumor close to the aorta, round and bright",
    "two lesions",
    "",
    "Unicode quoted",
    "c b a",
    "something",
    "",
]


@needs_java
def test_tokenizer_equal_to_pycocoevalcap():
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # pycocoevalcap itself loses an empty caption at the end and breaks on U+2028: given to it with blanks, and a stop.
    plain = [" ".join(text.splitlines()) for text in REFERENCES + HYPOTHESES]
    theirs = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate([*plain, "end"])})
    assert java.ptb_tokenize(REFERENCES + HYPOTHESES) == [theirs[i][0] for i in range(len(plain))]


@needs_java
@pytest.mark.slow
def test_meteor_equal_to_pycocoevalcap_for_pairs_and_corpora():
    from pycocoevalcap.meteor.meteor import Meteor

    tokens = java.ptb_tokenize(REFERENCES + HYPOTHESES)
    references, hypotheses = tokens[: len(REFERENCES)], tokens[len(REFERENCES) :]
    seen = []
    statistics = java.meteor_statistics(hypotheses * 20, [[text] for text in references] * 20, seen.append)
    assert seen == [100, 160]

    scorer = Meteor()
    for rows in (slice(0, 8), slice(0, 3), slice(3, 8), slice(2, 3)):
        pairs = list(zip(hypotheses[rows], references[rows], strict=True))
        gts, res = ({i: [pair[side]] for i, pair in enumerate(pairs)} for side in (1, 0))
        corpus, each = scorer.compute_score(gts, res)
        np.testing.assert_allclose(java.meteor_score(statistics[rows]), each, rtol=0, atol=1e-9)
        assert java.meteor_score(statistics[rows].sum(axis=0)) == pytest.approx(corpus, abs=1e-9)


def test_meteor_score_by_hand():
    """Three of four content words matched exactly, in one chunk: P = R = F = 0.75, penalty 0.6 * (1/3)^0.2."""
    sums = np.zeros(23)
    sums[:2], sums[4:6], sums[20], sums[21:] = 4, 3, 1, 3
    assert java.meteor_score(sums) == pytest.approx(0.75 * (1 - 0.6 * (1 / 3) ** 0.2), abs=1e-12)
    assert java.meteor_score(np.zeros(23)) == 0


def test_one_meteor_scores_all_captions_of_an_evaluation(tmp_path, monkeypatch):
    program, starts = tmp_path / "java", tmp_path / "starts"
    line = " ".join(["1"] * 23)
    program.write_text(f"#!/bin/sh\necho $$ >> {starts}\nwhile read row; do echo {line}; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(java, "java_command", lambda: str(program))

    def score(count):
        assert java.meteor_statistics(["a"] * count, [["a"]] * count)[:, :20].tolist() == [[1.0] * 20] * count

    with java.kept_meteor():
        score(3)
        score(2)
        with java.kept_meteor():
            score(1)
        running = java._meteor[0]
        assert starts.read_text().split() == [str(running.pid)] and running.poll() is None
        running.kill()
        with pytest.raises(RuntimeError, match="after 0 of 2"):
            java.meteor_statistics(["a"] * 2, [["a"]] * 2)
        score(2)
        running = java._meteor[0]
    assert running.poll() == 0 and not java._meteor
    score(1)
    assert len(starts.read_text().split()) == 3 and not java._meteor


def test_a_java_that_dies_is_an_error(tmp_path, monkeypatch):
    program = tmp_path / "java"
    program.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(java, "java_command", lambda: str(program))
    with pytest.raises(RuntimeError, match="exit code 3.*broken"):
        java.ptb_tokenize(["a"])
    with pytest.raises(RuntimeError, match="after 0 of 3"):
        java.meteor_statistics(["a"] * 3, [["a"]] * 3)


def test_without_pycocoevalcap_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(ImportError, match=r"llamafactory-clinkd\[eval\]"):
        java.coco_folder()
