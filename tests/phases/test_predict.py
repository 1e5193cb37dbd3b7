# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase predict with an open_clip scorer, in a real recipe: what is stored, what ranked it, and where that ran."""

import pytest
from miniature.clip_scorer import train_demo_scorer
from PIL import Image
from small_run import recipe

from llamafactory_clinkd.phases import predict
from llamafactory_clinkd.select import load_scorer
from llamafactory_clinkd.utils.boxes import strip_boxes
from llamafactory_clinkd.utils.io import read_json, read_jsonl


@pytest.fixture(scope="module")
def clip(workspace, tmp_path_factory):
    """The folder of an open_clip model of one training step."""
    pictures = sorted((workspace / "data" / "images").iterdir())[:4]
    folder = tmp_path_factory.mktemp("clip") / "clip"
    train_demo_scorer(list(zip(pictures, ("one", "two", "three", "four"), strict=True)), folder, steps=1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["beam", pytest.param("sample", marks=pytest.mark.long)])
def test_candidates_are_ranked_by_the_image_and_the_record_is_whole(workspace, clip, tmp_path, monkeypatch, mode):
    from llamafactory.train.tuner import run_exp

    asked = []
    monkeypatch.setattr(
        predict, "load_scorer", lambda name, device: asked.append((name, device)) or load_scorer(name, device=device)
    )
    keys = {"clinkd_phases": "predict,evaluate", "ref_model": None, "do_train": False, "dataset": None}
    keys |= {"rope_variant": "mcg", "sasg_scorer": str(clip), "sasg_mode": mode, "sasg_region": "image"}
    run_exp(recipe(workspace, tmp_path, use_cpu=True, **keys))

    scorer = load_scorer(str(clip))
    assert asked == [(str(clip), "cpu")]
    home = tmp_path / "clinkd"
    rows = read_jsonl(home / "predictions.jsonl")
    assert len(rows) == 4 and {row["scorer"] for row in rows} == {scorer.short_name}
    assert read_json(home / "predictions.scorer.json") == {"identity": scorer.identity, "region": "image"}
    for row in rows:
        candidates = row["candidates"]
        assert sorted(c["rank"] for c in candidates) == [1, 2, 3] and all("logprob" in c for c in candidates)
        assert row["response"] == next(c["text"] for c in candidates if c["rank"] == 1)
        for candidate in candidates:
            words = strip_boxes(candidate["text"])
            expected = scorer.score([Image.open(row["image"])], [[words]])[0][0] if words else None
            assert candidate["score"] == (None if expected is None else pytest.approx(expected, abs=1e-3))
    assert any(c["score"] is not None for row in rows for c in row["candidates"])
    page = (home / "report.html").read_text(encoding="utf-8")
    assert scorer.identity["weights_sha256"][:16] in page and set(read_json(home / "metrics.json")["tasks"])
