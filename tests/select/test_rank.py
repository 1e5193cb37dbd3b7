# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import itertools

import numpy as np
import pytest
from PIL import Image

from llamafactory_clinkd.select import load_scorer, rank_scores, rerank, select_row, select_rows
from llamafactory_clinkd.utils.boxes import format_box
from llamafactory_clinkd.utils.io import read_json, read_jsonl, write_jsonl


class WordScorer:
    """Scores a text by its words, plus the mean red of its picture; notes every call."""

    reads_images = True
    identity = {"name": "words"}
    short_name = "words"
    values = {"liver": 3.0, "spleen": 2.0, "kidney": 2.0}

    def __init__(self):
        self.calls = []

    def score(self, images, texts_per_image):
        self.calls.append([(image.size, list(texts)) for image, texts in zip(images, texts_per_image, strict=True)])
        return [
            [self.values.get(text, 0.0) + np.asarray(image)[..., 0].mean() for text in texts]
            for image, texts in zip(images, texts_per_image, strict=True)
        ]


@pytest.fixture
def image_dir(tmp_path):
    """Each image is 100 x 50, black on the left and with red 200 on the right half."""
    folder = tmp_path / "images"
    folder.mkdir()
    values = np.zeros((50, 100, 3), dtype=np.uint8)
    values[:, 50:, 0] = 200
    for name in ("ct_1.png", "mr_2.png"):
        Image.fromarray(values).save(folder / name)
    (folder / "x_3.png").write_bytes(b"no image")
    return folder


def row(id_, image, *texts, **more):
    candidates = [{"text": text, "logprob": -0.1 * i} for i, text in enumerate(texts, start=1)]
    fixed = {"question": "What is it?", "annotation": "liver", "task": "ROC", "modality": "ct"}
    return {"id": id_, "image": image, **fixed, "candidates": candidates, **more}


def select(rows, scorer, image_dir, **kwargs):
    kwargs.setdefault("out_path", image_dir / "predictions.jsonl")
    return select_rows(rows, scorer, lambda r: Image.open(image_dir / r["image"]), **kwargs)


def test_ranks_follow_scores_and_ties_keep_their_order():
    for scores in itertools.product([None, -1.0, 0.0, 2.0], repeat=4):
        ranks = rank_scores(scores)
        assert sorted(ranks) == [1, 2, 3, 4]
        for i, j in itertools.combinations(range(4), 2):
            a, b = scores[i], scores[j]
            earlier_first = a is not None and (b is None or a >= b) or (a is None and b is None)
            assert (ranks[i] < ranks[j]) == earlier_first


def test_one_row_in_memory_is_ranked_as_in_a_file(image_dir):
    candidates = row("1", "ct_1.png", "kidney", "liver (500,0),(999,999)", "spleen")
    for region in ("image", "crop"):
        (stored,) = select([candidates], WordScorer(), image_dir, region=region)
        assert select_row(candidates, WordScorer(), Image.open(image_dir / "ct_1.png"), region=region) == stored
    files = sorted(path.name for path in image_dir.iterdir())
    assert "no image" in select_row(candidates | {"image": None}, WordScorer(), None)["error"]
    assert sorted(path.name for path in image_dir.iterdir()) == files


def test_the_best_candidate_answers_and_all_are_kept(image_dir):
    got = select([row("a", "ct_1.png", "spleen", "liver", "kidney")], WordScorer(), image_dir)
    assert got == read_jsonl(image_dir / "predictions.jsonl")
    (r,) = got
    assert r["response"] == "liver" and r["scorer"] == "words" and r["annotation"] == "liver"
    assert [(c["text"], c["score"], c["rank"], c["logprob"]) for c in r["candidates"]] == [
        ("spleen", 102.0, 2, -0.1),
        ("liver", 103.0, 1, -0.2),
        ("kidney", 102.0, 3, pytest.approx(-0.3)),
    ]


def test_the_scorers_whole_identity_is_kept_beside_the_predictions(image_dir, tmp_path, clip_folder):
    select([row("a", "ct_1.png", "liver")], WordScorer(), image_dir, out_path=tmp_path / "predictions.jsonl")
    record = tmp_path / "predictions.scorer.json"
    assert read_json(record) == {"identity": {"name": "words"}, "region": "auto"}
    clip = load_scorer(str(clip_folder))
    rerank(tmp_path / "predictions.jsonl", clip, tmp_path / "predictions.jsonl", image_dir, region="crop")
    assert read_json(record) == {"identity": clip.identity, "region": "crop"}
    assert len(read_json(record)["identity"]["weights_sha256"]) == 64


def test_boxes_and_tags_are_not_words(image_dir):
    box = format_box((0, 0, 500, 1000))
    texts = (f"<|object_ref_start|>liver<|object_ref_end|>{box}", f"liver {box}", f"{box}", "spleen")
    scorer = WordScorer()
    (r,) = select([row("a", "ct_1.png", *texts)], scorer, image_dir, region="image")
    assert scorer.calls == [[((100, 50), ["liver", "spleen"])]]
    assert [c["rank"] for c in r["candidates"]] == [1, 2, 4, 3]
    assert r["candidates"][2]["score"] is None and r["candidates"][2]["unscored"] == "no words"
    assert r["response"] == texts[0] and "unscored" not in r["candidates"][0]
    (r,) = select([row("a", "ct_1.png", box, box)], scorer, image_dir, region="image")
    assert r["response"] == box and [c["rank"] for c in r["candidates"]] == [1, 2] and "error" not in r


def test_a_box_is_scored_by_what_the_question_asks_for(image_dir):
    left, right = format_box((0, 0, 300, 999)), format_box((600, 0, 900, 999))
    scorer = WordScorer()
    rows = [row("a", "ct_1.png", left, right, "(1100,0),(1200,9)", question="Where is the liver in the image?")]
    (r,) = select(rows, scorer, image_dir)
    assert scorer.calls == [[((33, 50), ["liver"]), ((36, 50), ["liver"])]]  # with a margin of a tenth
    assert r["response"] == right and [c["rank"] for c in r["candidates"]] == [2, 1, 3]
    assert r["candidates"][2]["unscored"] == "box outside the image"


def test_several_boxes_are_scored_each_by_its_reference(image_dir):
    left, right = format_box((0, 0, 400, 999)), format_box((600, 0, 999, 999))
    scorer = WordScorer()
    (r,) = select([row("a", "ct_1.png", f"<ref>liver</ref>{left} and <ref>spleen</ref>{right}")], scorer, image_dir)
    assert [texts for _, texts in scorer.calls[0]] == [["liver"], ["spleen"]]
    assert r["candidates"][0]["score"] == pytest.approx((3.0 + 2.0 + 200.0) / 2)


def test_without_a_box_in_the_answer_that_of_the_question_is_scored(image_dir):
    scorer, question = WordScorer(), f"What is at {format_box((600, 0, 999, 999))}?"
    rows = [row("a", "ct_1.png", "spleen", "liver", question=question), row("b", "mr_2.png", "liver")]
    r, whole = select(rows, scorer, image_dir, region="crop")
    assert [texts for _, texts in scorer.calls[0]] == [["spleen", "liver"], ["liver"]]
    assert [c["score"] for c in r["candidates"]] == [202.0, 203.0] and r["response"] == "liver"
    assert whole["candidates"][0]["score"] == 103.0
    with pytest.raises(ValueError, match="Unknown region 'box'"):
        select(rows, scorer, image_dir, region="box")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_ranks_last_and_is_null(image_dir, value):
    scorer = WordScorer()
    scorer.values = {"liver": value, "spleen": 1.0}
    (r,) = select([row("a", "ct_1.png", "liver", "spleen")], scorer, image_dir)
    assert [(c["score"] is None, c["rank"]) for c in r["candidates"]] == [(True, 2), (False, 1)]
    assert r["candidates"][0]["unscored"] == f"the score is {value}"
    assert "NaN" not in (image_dir / "predictions.jsonl").read_text()
    assert rank_scores([1.0, float("nan"), 3.0]) == [2, 3, 1]


def test_rows_of_one_image_share_its_encoding(image_dir):
    scorer = WordScorer()
    rows = [row("a", "ct_1.png", "liver", "spleen"), row("b", "mr_2.png", "liver"), row("c", "ct_1.png", "kidney")]
    got = select(rows, scorer, image_dir)
    assert scorer.calls == [[((100, 50), ["liver", "spleen", "kidney"]), ((100, 50), ["liver"])]]
    assert [r["response"] for r in got] == ["liver", "liver", "kidney"]


def test_a_bad_row_loses_no_other(image_dir, caplog):
    rows = [
        row("broken", "x_3.png", "spleen", "liver"),
        row("missing", "ct_9.png", "spleen"),
        row("ungenerated", "ct_1.png", error="OSError: broken"),
        row("odd", "ct_1.png", candidates="liver"),
        row("textless", "ct_1.png", candidates=[{"score": 3}]),
        {"id": "bare", "image": "ct_1.png"},
        {"id": "imageless", "candidates": [{"text": "liver"}]},
        row("good", "ct_1.png", "spleen", "liver"),
    ]
    got = {r["id"]: r for r in select(rows, WordScorer(), image_dir)}
    assert list(got) == [r["id"] for r in rows]
    assert got["good"]["response"] == "liver" and "error" not in got["good"]
    assert got["broken"]["response"] == "spleen" and "cannot be read (UnidentifiedImageError" in got["broken"]["error"]
    assert [c["score"] for c in got["broken"]["candidates"]] == [None, None]
    assert "FileNotFoundError" in got["missing"]["error"]
    assert got["ungenerated"]["error"] == "OSError: broken" and got["ungenerated"]["response"] == ""
    assert "not a list of objects" in got["odd"]["error"] and got["odd"]["candidates"] == "liver"
    assert "not a list of objects" in got["textless"]["error"]
    assert got["bare"]["error"] == "There are no candidates."
    assert "no image to compare with" in got["imageless"]["error"]
    assert "7 of 8 rows have an error" in caplog.text

    with pytest.raises(RuntimeError, match="None of the 2 rows could be ranked"):
        select(rows[:2], WordScorer(), image_dir)
    (odd,) = select([row("odd", "ct_1.png", candidates=3)], WordScorer(), image_dir)
    assert "not a list of objects" in odd["error"] and odd["response"] == ""
    (only,) = select([row("single", None, "liver")], WordScorer(), image_dir)  # nothing to choose from
    assert only["response"] == "liver" and "no image" in only["error"]


def test_a_response_without_candidates_is_kept(image_dir, tmp_path):
    """A file may mix rows: one without candidates has nothing to choose from, and its answer was given."""
    plain = {key: value for key, value in row("b", "ct_1.png").items() if key != "candidates"}
    rows = [
        row("a", "ct_1.png", "spleen", "liver", response="spleen"),
        plain | {"response": "the liver"},
        plain | {"response": "the spleen"},
        plain | {"response": "a kidney", "candidates": []},
        plain,
    ]
    write_jsonl(tmp_path / "mixed.jsonl", rows)
    got = rerank(tmp_path / "mixed.jsonl", WordScorer(), tmp_path / "out.jsonl", image_dir)
    assert [r["response"] for r in got] == ["liver", "the liver", "the spleen", "a kidney", ""]
    assert ["no candidates" in r.get("error", "") for r in got] == [False, True, True, True, True]


class DyingScorer(WordScorer):
    def score(self, images, texts_per_image):
        if len(self.calls) == 2:
            raise KeyboardInterrupt
        return super().score(images, texts_per_image)


def test_resumes_row_by_row(image_dir, tmp_path):
    rows = [row(f"r{i}", "ct_1.png", "spleen", f"text {i}", "liver") for i in range(7)]
    whole = select(rows, WordScorer(), image_dir, out_path=tmp_path / "whole.jsonl", batch_size=2)
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        select(rows, DyingScorer(), image_dir, out_path=out, batch_size=2)
    (part,) = tmp_path.glob("out.jsonl.*.part")
    assert len(read_jsonl(part)) == 4 and not out.exists()
    part.write_text(part.read_text()[:-9])  # torn
    rows[0] = row("r0", "ct_1.png", "kidney", "liver")  # generated anew since
    scorer = WordScorer()
    got = select(rows, scorer, image_dir, out_path=out, batch_size=2)
    assert got[1:] == whole[1:] and got[0]["response"] == "liver"
    assert [texts for call in scorer.calls for _, texts in call][0] == ["kidney", "liver", "spleen", "text 3"]
    assert len(scorer.calls) == 3 and not list(tmp_path.glob("*.part"))


def test_another_scorer_or_region_does_not_take_over_a_part(image_dir, tmp_path):
    rows = [row(f"r{i}", "ct_1.png", "spleen", "liver") for i in range(7)]
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        select(rows, DyingScorer(), image_dir, out_path=out, batch_size=2)
    scorer = WordScorer()
    select(rows, scorer, image_dir, out_path=out, batch_size=2, region="crop")
    assert len(scorer.calls) == 4 and not list(tmp_path.glob("*.part"))


def test_logprob_needs_no_images(tmp_path, image_dir):
    rows = [row("a", "x_3.png", "liver", "spleen"), row("b", "ct_9.png", "spleen", "liver")]
    rows[1]["candidates"][1]["logprob"] = -0.01
    rows.append(row("c", "ct_1.png", candidates=[{"text": "liver", "logprob": None}]))
    got = select(rows, load_scorer("logprob"), image_dir)
    assert [r["response"] for r in got] == ["liver", "liver", "liver"]
    assert {r["scorer"] for r in got} == {"logprob (not CLIP)"}
    assert "no stored `logprob`" in got[2]["error"] and "error" not in got[0]


def test_rerank_ranks_stored_candidates_again(image_dir, tmp_path, clip_folder):
    rows = [row("a", "ct_1.png", "spleen", "liver"), row("b", "x_3.png", "liver")]
    first = tmp_path / "predictions.jsonl"
    before = select(rows, WordScorer(), image_dir, out_path=first)
    Image.new("RGB", (10, 10)).save(image_dir / "x_3.png")  # fixed since

    clip = load_scorer(str(clip_folder))
    got = rerank(first, clip, tmp_path / "again.jsonl", image_dir)
    image = Image.open(image_dir / "ct_1.png")
    scores = clip.score([image], [["spleen", "liver"]])[0]
    assert [c["score"] for c in got[0]["candidates"]] == pytest.approx(scores, abs=1e-4)
    assert got[0]["response"] == ("spleen", "liver")[int(np.argmax(scores))]
    assert {r["scorer"] for r in got} == {clip.short_name} and not any("error" in r for r in got)
    assert rerank(tmp_path / "again.jsonl", WordScorer(), tmp_path / "back.jsonl", image_dir)[0] == before[0]
    assert rerank(first, WordScorer(), first, image_dir)[0] == before[0]  # in place

    write_jsonl(tmp_path / "plain.jsonl", [{"id": "a", "response": "liver"}])
    with pytest.raises(ValueError, match="stores no candidates"):
        rerank(tmp_path / "plain.jsonl", clip, tmp_path / "x.jsonl", image_dir)
    (tmp_path / "plain.jsonl").write_text('{"id": "a"}\n["a list"]\n')
    with pytest.raises(ValueError, match="plain.jsonl, row 2: not an object but list"):
        rerank(tmp_path / "plain.jsonl", clip, tmp_path / "x.jsonl", image_dir)
    with pytest.raises(FileNotFoundError, match="no predictions file"):
        rerank(tmp_path / "nothing.jsonl", clip, tmp_path / "x.jsonl", image_dir)
