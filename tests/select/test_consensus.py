# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import random
import statistics

import pytest
from typer.testing import CliRunner

from llamafactory_clinkd.cli import app
from llamafactory_clinkd.select import ConsensusScorer, ScorerError, check_scorer, load_scorer, rerank, select_rows
from llamafactory_clinkd.select.consensus import Answer, WeightedScorer, similarity, standardised
from llamafactory_clinkd.select.fit import fit_weights
from llamafactory_clinkd.select.image_scores import RowScores
from llamafactory_clinkd.utils.io import read_json, read_jsonl, write_jsonl


def row(id_, *candidates, annotation="x", task="ROC"):
    stored = [{"text": text, "logprob": logprob} for text, logprob in candidates]
    return {
        "id": id_,
        "image": f"{id_}.png",
        "question": "q",
        "annotation": annotation,
        "task": task,
        "candidates": stored,
    }


def box(left, right):
    return f"<box>({left},0),({right},100)</box>"


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        (box(0, 100), box(50, 150), 1 / 3),
        (box(0, 100), box(0, 100), 1.0),
        (box(0, 100) + box(200, 300), box(200, 300), 0.5),  # matched one to one; the extra box counts
        (box(0, 100) + box(200, 300), box(200, 300) + box(0, 100), 1.0),
        (box(0, 100), "liver", 0.0),
        ("the left kidney", "Left kidney", 0.8),
        ("liver", "spleen", 0.0),
        ("", "", 1.0),
    ],
)
def test_similarity(a, b, value):
    assert similarity(Answer(a), Answer(b)) == pytest.approx(value) == similarity(Answer(b), Answer(a))


def test_the_candidate_that_agrees_most_answers(tmp_path):
    rows = [
        row("a", (box(500, 600), -0.1), (box(0, 100), -0.2), (box(5, 105), -0.3)),
        row("b", ("liver", -0.1), ("spleen", -0.2), ("spleen", -0.3)),
        row("c", ("only", -0.1)),
    ]
    got = select_rows(rows, ConsensusScorer(), None, out_path=tmp_path / "out.jsonl")
    assert [r["response"] for r in got] == [box(0, 100), "spleen", "only"]
    assert got[0]["candidates"][1]["score"] == pytest.approx((95 / 105) / 2)
    assert [c["rank"] for c in got[1]["candidates"]] == [3, 1, 2]
    assert load_scorer("consensus").identity == ConsensusScorer.identity


def test_standardised_scores():
    assert standardised([1.0, 1.0, 1.0]) == [0.0] * 3 and standardised([None, None]) == [0.0] * 2
    values = standardised([3.0, None, 1.0, 5.0])
    assert values[1] == values[2] == min(values)
    assert statistics.fmean(values) == pytest.approx(0) and statistics.pstdev(values) == pytest.approx(1)


def good_and_bad(count, seed=0):
    """Rows whose right answer has the lower probability in half of task A, always in task B."""
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        right_first = index % 2 == 0 if index < count // 2 else False
        first, second = ("x", "y") if right_first else ("y", "x")
        rows.append(row(f"{seed}-{index}", (first, -draw.random()), (second, -1 - draw.random()), ("x", -9.0)))
        rows[-1]["task"] = "A" if index < count // 2 else "B"
    return rows


def test_weights_fitted_on_validation_rows_rank_other_rows_and_never_these(tmp_path):
    write_jsonl(tmp_path / "validation.jsonl", good_and_bad(80))
    weights = tmp_path / "weights.json"
    arguments = ["select", str(tmp_path / "validation.jsonl"), "--fit", "--output", str(weights)]
    run = CliRunner().invoke(app, [*arguments, "--scorer", "logprob", "--scorer", "consensus"])
    assert run.exit_code == 0, run.output
    stored = read_json(weights)
    assert set(stored["weights"]) == {"default", "A", "B"} and len(stored["fitted_on"]) == 80
    quality = stored["quality"]["B"]
    assert quality["rows"] == 40 and quality["first"] == 0.0 and quality["consensus"] == quality["weighted"] == 1.0
    assert quality["logprob"] == 0.0 and quality["best"] == 1.0
    assert stored["quality"]["A"]["weighted"] >= max(stored["quality"]["A"][name] for name in ("logprob", "consensus"))

    scorer = load_scorer(str(weights))
    assert isinstance(scorer, WeightedScorer)
    write_jsonl(tmp_path / "test.jsonl", good_and_bad(20, seed=1))
    got = rerank(tmp_path / "test.jsonl", scorer, tmp_path / "ranked.jsonl", tmp_path)
    assert all(r["response"] == "x" for r in got if r["task"] == "B")
    assert read_json(tmp_path / "ranked.scorer.json")["identity"]["weights"] == stored["weights"]
    write_jsonl(tmp_path / "both.jsonl", read_jsonl(tmp_path / "test.jsonl") + good_and_bad(80)[:3])
    with pytest.raises(ValueError, match="fitted on 3 of these 23 rows"):
        rerank(tmp_path / "both.jsonl", scorer, tmp_path / "ranked.jsonl", tmp_path)


def test_fitted_weights_are_the_best_of_all_tenths():
    rows = good_and_bad(60)
    draw = random.Random(1)
    scores = {
        name: [RowScores([draw.random() for _ in each["candidates"]], [None] * 3) for each in rows] for name in "abc"
    }
    fitted = fit_weights(rows, scores)

    def mean(weights):
        total = 0.0
        for index, each in enumerate(rows):
            columns = [standardised(scores[name][index].scores) for name in "abc"]
            sums = [sum(w * z for w, z in zip(weights, line, strict=True)) for line in zip(*columns, strict=True)]
            total += each["candidates"][max(range(3), key=lambda i: sums[i])]["text"] == "x"
        return total / len(rows)

    tried = [mean((i / 10, j / 10, (10 - i - j) / 10)) for i in range(11) for j in range(11 - i)]
    assert fitted["quality"]["default"]["weighted"] == pytest.approx(max(tried))
    assert mean([fitted["weights"]["default"][name] for name in "abc"]) == pytest.approx(max(tried))


def test_a_part_that_cannot_rank_a_row_counts_nothing(tmp_path):
    scorer = WeightedScorer(
        {"logprob": load_scorer("logprob"), "consensus": load_scorer("consensus")}, {},
        {"default": {"logprob": 0.9, "consensus": 0.1}}, [], {"name": "w"},
    )  # fmt: skip
    rows = [row("a", ("liver", None), ("spleen", None), ("spleen", None)), row("b", ("x", -2.0), ("y", -1.0))]
    got = select_rows(rows, scorer, None, out_path=tmp_path / "out.jsonl")
    assert [r["response"] for r in got] == ["spleen", "y"] and not any("error" in r for r in got)


def test_what_cannot_be_fitted_or_loaded_is_refused(tmp_path):
    write_jsonl(tmp_path / "one.jsonl", [row("a", ("x", -1.0))])
    arguments = ["select", str(tmp_path / "one.jsonl"), "--output", str(tmp_path / "w.json"), "--scorer", "logprob"]
    run = CliRunner().invoke(app, [*arguments, "--fit"])
    assert run.exit_code == 2 and "two candidates and an annotation" in " ".join(run.output.split())
    run = CliRunner().invoke(app, [*arguments, "--scorer", "consensus"])
    assert run.exit_code == 2 and "fit their weights with --fit" in " ".join(run.output.split())
    (tmp_path / "w.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no weights"):
        load_scorer(str(tmp_path / "w.json"))
    with pytest.raises(ScorerError, match="There is no file"):
        check_scorer(str(tmp_path / "missing.json"))
