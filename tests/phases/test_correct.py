# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A recipe's ``correction_scorer``: CLIP has a say in which rewording is kept. Corrections of an earlier version."""

from types import SimpleNamespace

import pytest
from datasets import Dataset
from miniature.clip_scorer import train_demo_scorer
from PIL import Image
from small_run import drawn_rows, recipe

from llamafactory_clinkd.arguments import ClinkdArguments
from llamafactory_clinkd.phases import correct
from llamafactory_clinkd.phases.correct import CorrectionRounds, ImageTextScore, recipe_scorer
from llamafactory_clinkd.select import ScorerError, load_scorer
from llamafactory_clinkd.utils.boxes import strip_boxes
from llamafactory_clinkd.utils.io import read_json, read_jsonl, write_json, write_jsonl
from llamafactory_clinkd.utils.ranks import Ranks


class Settings:
    correction_scorer: str | None = None


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP model of one training step, and one of its pictures."""
    folder = tmp_path_factory.mktemp("clip")
    rows = drawn_rows(folder, 4)
    pictures = [folder / row["image"] for row in rows]
    train_demo_scorer(list(zip(pictures, ("one", "two", "three", "four"), strict=True)), folder / "clip", steps=1)
    return str(folder / "clip"), str(pictures[0])


def by_hand(folder, image, texts):
    """The cosines of one image and some texts, straight from open_clip."""
    import open_clip
    import torch

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        seen = model.eval().encode_image(preprocess(Image.open(image).convert("RGB"))[None])[0]
        return [torch.cosine_similarity(seen, told, dim=0).item() for told in model.encode_text(tokens)]


def test_score_is_the_cosine_of_image_and_words(clip):
    folder, image = clip
    scorer = ImageTextScore(load_scorer(folder))
    found = scorer.scores(image, ["a white square <box>(1,2),(3,4)</box>", "a liver", "<box>(1,2),(3,4)</box>"])
    assert found[:2] == pytest.approx(by_hand(folder, image, ["a white square", "a liver"]), abs=1e-6)
    assert found[2] == 0 and found[0] != found[1]
    assert scorer.scores("", ["a liver"]) == [0.0] and scorer.scores(image, ["(1,2),(3,4)"]) == [0.0]


def test_none_is_loaded_unless_the_recipe_names_one(clip):
    settings = Settings()
    assert recipe_scorer(settings) is None
    settings.correction_scorer = clip[0]
    assert recipe_scorer(settings).name == load_scorer(clip[0]).short_name
    settings.correction_scorer = "no-such-model"
    with pytest.raises(ScorerError, match="no-such-model"):
        recipe_scorer(settings)


def test_log_probabilities_are_no_scorer_of_rewordings(workspace, tmp_path):
    from llamafactory.hparams import get_train_args

    with pytest.raises(ValueError, match="`correction_scorer: logprob` is not allowed"):
        get_train_args(recipe(workspace, tmp_path, clinkd_phases="correct", correction_scorer="logprob"))


@pytest.mark.parametrize("prices", ["2.5", "2.5,x", "2.5,-1", "2.5,nan", "1,2,3"])
def test_token_prices_are_two_numbers(prices):
    with pytest.raises(ValueError, match="`correction_token_prices: .*two prices"):
        ClinkdArguments(use_clinkd=True, clinkd_phases="correct", correction_token_prices=prices).check_clinkd()


def test_token_prices_are_read():
    arguments = ClinkdArguments(use_clinkd=True, clinkd_phases="correct", correction_token_prices="2.50, 10.00")
    arguments.check_clinkd()
    assert arguments.correction_token_prices == [2.5, 10.0]


@pytest.mark.slow
def test_the_best_sum_of_similarity_and_score_is_kept(workspace, clip, tmp_path):
    from llamafactory.train.tuner import run_exp

    folder, _ = clip
    run_exp(recipe(workspace, tmp_path, clinkd_phases="correct", correction_scorer=folder, correction_threshold=0.3))
    corrections = tmp_path / "clinkd" / "corrections"
    records = [each for each in read_jsonl(corrections / "round-1.jsonl") if each["status"] == "corrected"]
    assert len(records) == read_json(corrections / "round-1.summary.json")["corrected"] > 0
    for record in records:
        passed = [each for each in record["candidates"] if not each["reasons"]]
        words = [strip_boxes(each["text"]) for each in passed]
        sums = [e["similarity"] + c for e, c in zip(passed, by_hand(folder, record["image"], words), strict=True)]
        assert [each["score"] for each in passed] == pytest.approx(sums, abs=1e-6)
        assert record["corrected"] == passed[sums.index(max(sums))]["text"]


def test_recorded_corrections_whose_text_fails_a_later_check_are_counted_in_the_log(tmp_path, caplog):
    """The bad rewording is left out, and the log holds the count, not its text."""
    rounds = CorrectionRounds.__new__(CorrectionRounds)
    rounds.folder, rounds._rows = tmp_path, {}
    rounds._run = SimpleNamespace(ranks=SimpleNamespace(rank=0))
    rounds.data = SimpleNamespace(aligned=lambda is_eval: pytest.fail("no row is left"))
    row = {"status": "corrected", "annotation": "a mass", "corrected": "Here is a rewrite: a mass <|im_end|>"}
    write_jsonl(tmp_path / "round-1.jsonl", [{**row, "id": "0:a"}, {**row, "id": "1:b", "status": "kept"}])
    write_json(tmp_path / "round-1.summary.json", {})
    with caplog.at_level("WARNING"):
        assert rounds.corrected_rows(1) is None
    assert "1 of the 1 corrections recorded" in caplog.text and "rewrite" not in caplog.text


def test_a_continued_training_names_the_round_in_work(tmp_path):
    """The message of a stop has this place."""
    rounds, ranks = CorrectionRounds.__new__(CorrectionRounds), Ranks()
    rounds.folder, rounds._run = tmp_path / "corrections", SimpleNamespace(ranks=ranks)
    for finished in range(3):
        rounds.clear(fresh=False)
        assert ranks.location == f"training of round {finished + 1}"
        write_json(rounds.folder / f"round-{finished + 1}.summary.json", {})
    rounds.clear(fresh=True)
    assert ranks.location == "training of round 1" and not rounds.folder.exists()


def test_after_a_correction_the_next_round_is_in_work(monkeypatch, tmp_path):
    rounds, ranks, places = CorrectionRounds.__new__(CorrectionRounds), Ranks(), []
    rounds.folder, rounds._run = tmp_path, SimpleNamespace(ranks=ranks)
    rounds.data = SimpleNamespace(aligned=lambda is_eval: Dataset.from_dict({"a": [1]}))
    rounds._settings, rounds._recorder = SimpleNamespace(correction_max_samples=None), None
    rounds._arguments = SimpleNamespace(training=SimpleNamespace(seed=1))
    monkeypatch.setattr(correct, "DescribedRows", lambda *args: SimpleNamespace(keys=lambda: ["0:a"]))
    monkeypatch.setattr(rounds, "_generate", lambda *args: [])
    monkeypatch.setattr(rounds, "_judge", lambda *args: places.append(ranks.location))
    rounds.correct(1)
    assert places == ["correction after round 1"] and ranks.location == "training of round 2"
