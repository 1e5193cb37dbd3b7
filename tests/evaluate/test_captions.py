# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import subprocess

import numpy as np
import pytest

from llamafactory_clinkd.evaluate import captions, java


pytest.importorskip("pycocoevalcap", reason="needs the extra 'eval'")
needs_java = pytest.mark.skipif(java.java_command() is None, reason="no `java` on the path")

PAIRS = [
    ("A CT of the abdomen shows the liver, the spleen and both kidneys.", "CT of the abdomen with liver and spleen."),
    ("The chest X-ray shows a normal heart and clear lungs.", "The chest X-ray shows a normal heart and clear lungs."),
    ("There is a bright lesion near the left kidney.", "A dark mass at the right lung."),
    ("The <ref>liver</ref><box>(1,2),(3,4)</box> is large.", "The <ref>liver</ref><box>(1,2),(3,4)</box> is big."),
    ("The retina has a pale disc.", ""),
    ("No finding.", "no finding"),
]
ROWS = [{"annotation": annotation, "response": response} for annotation, response in PAIRS]
ROWS[1]["annotations"] = [ROWS[1]["annotation"], "A normal heart and clear lungs.", "Nothing is found in the chest."]
ROWS[3]["annotations"] = [ROWS[3]["annotation"], "The big <ref>liver</ref>."]
GROUPS = [np.array([0, 2, 4]), np.array([1, 3, 5])]


def coco_scores(rows):
    """The metrics of ``COCOEvalCap``, by its own classes and in its own order, without SPICE."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # It loses an empty caption at the end of its input, so one more follows and is taken away again.
    sides = []
    for side in ("annotation", "response"):
        texts = [row.get("annotations", [row["annotation"]]) if side == "annotation" else [row[side]] for row in rows]
        given = {i: [{"caption": text} for text in each] for i, each in enumerate([*texts, ["end"]])}
        tokens = PTBTokenizer().tokenize(given)
        sides.append({i: tokens[i] for i in range(len(rows))})
    scores = dict(
        zip(("bleu_1", "bleu_2", "bleu_3", "bleu_4"), Bleu(4).compute_score(*sides, verbose=0)[0], strict=True)
    )
    for name, scorer in (("meteor", Meteor()), ("rouge_l", Rouge()), ("cider", Cider())):
        scores[name] = scorer.compute_score(*sides)[0]
    return scores


@needs_java
@pytest.mark.slow
@pytest.mark.usefixtures("own_meteor")
def test_equal_to_pycocoevalcap_with_each_java_program_started_once(monkeypatch):
    started = []
    popen = subprocess.Popen

    class Noted(popen):
        def __init__(self, command, *args, **kwargs):
            started.append([part for part in command if part.endswith(".jar")])
            super().__init__(command, *args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    table, tokenizer, has_meteor = captions.caption_statistics(ROWS, GROUPS)
    assert started == [["stanford-corenlp-3.4.1.jar"], ["meteor-1.5.jar"]]
    assert (tokenizer, has_meteor) == (captions.PTB, True)
    monkeypatch.undo()

    for group in GROUPS:
        ours = captions.caption_scores(table[group].sum(axis=0), True)
        theirs = coco_scores([ROWS[i] for i in group])
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, abs=1e-9), name
        bleu = [theirs[f"bleu_{n}"] for n in range(1, 5)]
        rest = theirs["meteor"] + theirs["rouge_l"]
        assert ours["value"] == pytest.approx((sum(bleu) + rest) / 6, abs=1e-9)
        assert ours["mbmr_bird"] == pytest.approx((bleu[3] + rest) / 3, abs=1e-9)


def test_without_java_bleu_and_rouge_go_on_and_meteor_is_missing(monkeypatch):
    monkeypatch.setattr(captions, "java_command", lambda: None)
    table, tokenizer, has_meteor = captions.caption_statistics(ROWS, GROUPS)
    assert (tokenizer, has_meteor) == (captions.PLAIN, False)
    scores = captions.caption_scores(table[1:2].sum(axis=0), has_meteor)
    assert scores["meteor"] is scores["value"] is scores["mbmr_bird"] is None
    assert scores["bleu_4"] == pytest.approx(1, abs=1e-6)
    assert scores["rouge_l"] == pytest.approx(1)


def test_tag_style_does_not_matter(monkeypatch):
    monkeypatch.setattr(captions, "java_command", lambda: None)
    rows = [{"annotation": "<box>(1,2),(3,4)</box>", "response": "<|box_start|>(1,2),(3,4)<|box_end|>"}]
    assert captions.caption_statistics(rows, [np.array([0])])[0][0, -3] == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The Liver, (left) is 3.5 cm.", "the liver left is 3.5 cm"),
        ("an X-ray; non-contrast -- T1/T2 ...", "an x-ray non-contrast t1/t2"),
        ("", ""),
    ],
)
def test_plain_tokenizer(text, tokens):
    assert captions.plain_tokenize([text]) == [tokens]


def test_chinese_captions_are_cut_into_words(monkeypatch):
    pytest.importorskip("jieba", reason="needs the extra 'eval'")
    monkeypatch.setattr(captions, "java_command", lambda: None)
    rows = [{"annotation": "左侧肺部有肿块。", "response": "肺部有肿块"}]
    table = captions.caption_statistics(rows, [np.array([0])])[0]
    assert table[0, 8:10].tolist() == [3, 4] and table[0, 4] == 3  # words of both sides, and those in common
