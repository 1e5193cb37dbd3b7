# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json
import logging
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from llamafactory_clinkd.correct import CorrectionResult, Usage, correct_round, load_similarity, make_corrector
from llamafactory_clinkd.utils.io import read_jsonl, write_jsonl

from .fault_server import FaultServer, make_rows, script_of
from .run_round import run


LEXICAL = load_similarity("lexical")
SCRIPT = Path(__file__).with_name("run_round.py")


class Fixed:
    """A corrector with known answers, or none."""

    name, prompt_text = "fixed", ""

    def __init__(self, answers):
        self.answers, self.usage, self.requested = answers, Usage(), []

    def start_round(self, usage):
        self.usage = usage

    def correct(self, items):
        for item in items:
            self.requested.append(item.id)
            self.usage.requests += 1
            yield [CorrectionResult(item.id, tuple(self.answers.get(item.id, ())))]


def row(id, annotation="The left kidney is located here", response="", question="Where?"):
    return {"id": id, "image": f"{id}.png", "question": question, "annotation": annotation, "response": response}


def correct(rows, corrector, path, **options):
    return correct_round(rows, similarity=LEXICAL, corrector=corrector, out_path=path, **options)


def test_kept_corrected_rejected(tmp_path):
    rows = [
        row("a", response="The left kidney is located here"),
        row("b"),
        row("c"),
        row("d"),
        row("e", annotation=None),
        row("f", annotation=" "),
    ]
    answers = {
        "b": [
            "The right kidney is located here",
            "Here is located the left kidney",
            "The left kidney located is here",
        ],
        "c": ["liver"],
    }
    path = tmp_path / "corrections" / "round-1.jsonl"
    summary = correct(rows, Fixed(answers), path)
    records = {each["id"]: each for each in read_jsonl(path)}
    assert {id: each["status"] for id, each in records.items()} == {
        "a": "kept", "b": "corrected", "c": "rejected", "d": "rejected", "e": "rejected", "f": "rejected",
    }  # fmt: skip
    assert list(records) == ["a", "b", "c", "d", "e", "f"]
    assert records["b"]["corrected"] == "Here is located the left kidney"
    assert [each["reasons"] for each in records["b"]["candidates"]] == [
        ["similarity", "opposite", "position"], [], [],
    ]  # fmt: skip
    assert records["b"]["candidates"][0]["details"]["opposite"] == "'left' becomes 'right'"
    assert records["c"]["corrected"] is None
    assert records["e"]["reason"] == "unusable: annotation is NoneType, expected a string"
    assert (summary.rows, summary.kept, summary.corrected, summary.rejected) == (6, 1, 1, 4)
    assert summary.reasons == {"ok": 1, "similarity": 3, "unusable": 2}
    assert summary.rejections == {
        "added": 1,
        "dropped": 1,
        "no_candidates": 1,
        "position": 1,
        "similarity": 1,
        "too_short": 1,
        "unusable": 2,
    }
    assert json.loads(json.dumps(summary.as_dict()))["usage"]["requests"] == 3


def test_a_scorer_gets_the_image_and_adds_to_the_score(tmp_path):
    class Scorer:
        name = "test"

        def scores(self, image, texts):
            assert image == "b.png"
            return [float(text.startswith("Located")) for text in texts]

    answers = {"b": ["Here is the left kidney located", "Located here is the left kidney"]}
    path = tmp_path / "r.jsonl"
    correct([row("b")], Fixed(answers), path, scorer=Scorer())
    (record,) = read_jsonl(path)
    assert record["corrected"] == answers["b"][1]
    assert [each["score"] for each in record["candidates"]] == [1.0, 2.0]


def test_existing_labels_are_rejected(tmp_path):
    rows = [row("a"), row("b", annotation="It is the left kidney located here.")]
    answers = {
        "a": ["it is the left  kidney located here", "Located here: the left kidney", "Left kidney, located here"]
    }
    path = tmp_path / "r.jsonl"
    correct(rows, Fixed(answers), path, existing_labels=["Located here: the left kidney"])
    assert [each["reasons"] for each in read_jsonl(path)[0]["candidates"]] == [["existing_label"]] * 2 + [[]]


def test_further_candidates_are_ignored(tmp_path):
    path = tmp_path / "r.jsonl"
    correct([row("b")], Fixed({"b": ["x", "y", "z"]}), path, candidates=2)
    assert [each["text"] for each in read_jsonl(path)[0]["candidates"]] == ["x", "y"]


def test_a_huge_candidate_is_recorded_in_part(tmp_path):
    path = tmp_path / "r.jsonl"
    correct([row("b")], Fixed({"b": ["x" * 10**6]}), path)
    assert path.stat().st_size < 4000


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a"), row("b"), row("a")], "'a' occurs twice .again in row 2"),
        ([row("a"), row(7)], "Row 1 has the id 7"),
        ([row("")], "non-empty string"),
    ],
)
def test_bad_ids(rows, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        correct(rows, Fixed({}), tmp_path / "r.jsonl")
    assert not (tmp_path / "r.jsonl").exists()


class Unfaithful(Fixed):
    def correct(self, items):
        items = list(items)
        if self.answers == "silent":
            items.pop()
        if self.answers == "twice":
            items.append(items[0])
        yield [CorrectionResult(item.id, ()) for item in items]


@pytest.mark.parametrize(("how", "message"), [("silent", "1 rows unanswered"), ("twice", "'a' twice")])
def test_a_corrector_must_answer_each_item_once(how, message, tmp_path):
    with pytest.raises(RuntimeError, match=message):
        correct([row("a"), row("b")], Unfaithful(how), tmp_path / "r.jsonl")


def test_no_rows(tmp_path):
    summary = correct([], Fixed({}), tmp_path / "r.jsonl")
    assert summary.rows == 0 and read_jsonl(tmp_path / "r.jsonl") == []


def test_recorded_rows_are_skipped_unless_row_or_settings_changed(tmp_path):
    rows, path = make_rows(30), tmp_path / "r.jsonl"
    correct(rows, first := Fixed({}), path)
    whole = path.read_bytes()
    correct(rows, again := Fixed({}), path)
    assert len(first.requested) == 27 and again.requested == [] and path.read_bytes() == whole
    assert again.usage.requests == 27

    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:10]) + b'{"torn')
    correct(rows, rest := Fixed({}), path)
    assert rest.requested == [f"ct_{n}" for n in range(11, 30) if n % 10]
    assert path.read_bytes() == whole

    rows[5] = {**rows[5], "response": "another answer"}
    correct(rows, one := Fixed({}), path)
    assert one.requested == ["ct_5"]
    correct(rows, every := Fixed({}), path, threshold=0.9)
    assert len(every.requested) == 27


def test_an_interrupted_correction_keeps_its_records(tmp_path):
    class Stopped(Fixed):
        def correct(self, items):
            for number, group in enumerate(super().correct(items)):
                if number == 4:
                    raise KeyboardInterrupt
                yield group

    rows, path = make_rows(30), tmp_path / "r.jsonl"
    with pytest.raises(KeyboardInterrupt):
        correct(rows, Stopped({}), path)
    assert len(read_jsonl(path)) == 3 + 4
    correct(rows, rest := Fixed({}), path)
    assert len(rest.requested) == 27 - 4 and rest.usage.requests == 4 + 23


def test_a_slow_server_does_not_keep_a_run_from_stopping(tmp_path):
    """Its Retry-After is 20 seconds, after which every row would fail."""
    web = pytest.importorskip("aiohttp.web", reason="aiohttp is not installed")
    pytest.importorskip("openai", reason="the openai client is not installed")
    rows, path, calls = make_rows(20), tmp_path / "r.jsonl", []

    def leave(stage, done, total):
        calls.append((stage, done))
        if len(calls) == 4:
            raise KeyboardInterrupt

    with FaultServer(reply=lambda row, headers: web.Response(status=429, headers={"Retry-After": "20"})) as server:
        with pytest.raises(KeyboardInterrupt):
            correct(rows, make_corrector("openai", base_url=server.url, concurrency=2), path, progress=leave)
        assert server.requests.total() == 2
    assert calls == [("judge", 20), *[("correct", 0)] * 3]
    assert [each["status"] for each in read_jsonl(path)] == ["kept"] * 2


def test_progress_and_logs_hold_counts_only(tmp_path, caplog):
    steps = []
    with caplog.at_level(logging.DEBUG):
        correct(make_rows(20), Fixed({}), tmp_path / "r.jsonl", progress=lambda *step: steps.append(step))
    assert steps[0] == ("judge", 20, 20) and steps[1] == ("correct", 0, 18) and steps[-1] == ("correct", 18, 18)
    assert "20 rows, 2 kept, 0 corrected, 18 rejected" in caplog.text and "kidney" not in caplog.text


def test_cost_is_logged_and_recorded_where_prices_are_known(tmp_path, caplog):
    class Billed(Fixed):
        def correct(self, items):
            for group in super().correct(items):
                self.usage.prompt_tokens += 1000 * len(group)
                self.usage.completion_tokens += 100 * len(group)
                yield group

    with caplog.at_level(logging.INFO):
        summary = correct(make_rows(20), Billed({}), tmp_path / "r.jsonl", token_prices=[2.5, 10.0])
    assert summary.usage["cost"] == pytest.approx(18 * (1000 * 2.5 + 100 * 10) / 1e6)
    assert "18000 + 1800 tokens, cost 0.0630." in caplog.text
    assert "cost" not in correct(make_rows(20), Fixed({}), tmp_path / "s.jsonl").usage


def test_the_offline_corrector_with_boxes_and_labels(tmp_path):
    rows = [
        row("a", annotation="Sacrum", question="What structure is at the <box>(1,2),(3,4)</box>?"),
        row("b", annotation="<box>(1,2),(3,4)</box>", question="Where is the left hip located in the image?"),
        row("c", annotation="The image shows a mass in the left lung, adjacent to the pleura.", question="Describe."),
        *make_rows(20),
    ]
    path = tmp_path / "r.jsonl"
    summary = correct(rows, make_corrector("offline"), path)
    assert (summary.kept, summary.corrected, summary.rejected) == (2, 21, 0)
    for each in read_jsonl(path):
        assert each["corrected"] is None or each["corrected"] != each["annotation"]


def test_a_faulty_server_gives_each_sample_exactly_one_verdict(tmp_path):
    rows = make_rows(100)
    with FaultServer(seed=5) as server:
        summary = run(rows, tmp_path / "r.jsonl", server.url, "lexical")
        assert server.most_in_flight <= 8
    records = read_jsonl(tmp_path / "r.jsonl")
    assert [each["id"] for each in records] == [each["id"] for each in rows]
    assert summary.kept + summary.corrected + summary.rejected == summary.rows == 100
    for number, each in enumerate(records):
        final = script_of(str(number), 5)[1]
        right = number % 10 == 0
        assert each["status"] == ("kept" if right else "corrected" if final in ("good", "fenced") else "rejected")
    assert {"boxes", "too_long", "prompt_leak", "added", "empty_answer", "unparsable"} <= set(summary.rejections)


def kill_and_resume(tmp_path, count, kills, similarity):
    from llamafactory_clinkd.utils.chat_client import MAX_GROUP

    rows = make_rows(count)
    source, path, whole = (tmp_path / name for name in ("rows.jsonl", "r.jsonl", "whole.jsonl"))
    write_jsonl(source, rows)
    with FaultServer(seed=9) as server:
        run(rows, whole, server.url, similarity)
        assert 2 <= server.most_in_flight <= 8
        assert {"429", "500", "hang", "cut", "broken_json", "wrong_boxes", "empty", "huge"} <= set(server.kinds)
    rng = random.Random(count)
    targets = sorted(rng.sample(range(count // 10 + 1, count - 2 * MAX_GROUP), kills))  # rows are written in groups
    with FaultServer(seed=9) as server:
        command = [sys.executable, "-m", "tests.correct.run_round", str(source), str(path), server.url, similarity]
        for target in targets:
            process = subprocess.Popen(command, cwd=SCRIPT.parents[2])
            while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < target):
                time.sleep(0.002)
            assert process.poll() is None, f"the run ended before it could be killed at {target} rows"
            process.kill()
            process.wait()
            assert path.read_bytes().count(b"\n") < count
        subprocess.run(command, cwd=SCRIPT.parents[2], check=True, timeout=600)
        assert server.most_in_flight <= 8
    assert path.read_bytes() == whole.read_bytes()
    assert Counter(each["id"] for each in read_jsonl(path)) == {each["id"]: 1 for each in rows}


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    kill_and_resume(tmp_path, count=150, kills=2, similarity="lexical")


@pytest.mark.long
def test_a_thousand_samples_killed_ten_times(tmp_path):
    pytest.importorskip("sentence_transformers")
    kill_and_resume(tmp_path, count=1000, kills=10, similarity="sentence")


class SimilarToNo:
    """A sentence is similar to the label "no" only."""

    name = "fixed"

    def scores(self, a, b):
        return [0.9 if all("no" in text for text in pair) else 0.5 for pair in zip(a, b, strict=True)]


@pytest.mark.parametrize(("good", "hinted"), [(0, True), (1, True), (2, False)])
def test_short_answers_that_the_similarity_rejects_are_reported_with_the_key(tmp_path, caplog, good, hinted):
    """Of four wrong ones, 4, 3 or 2 are rejected; a long and an unusable one do not count."""
    labels = ["no"] * good + ["yes"] * (4 - good)
    rows = [row(str(n), annotation=label, response="maybe", question="Is it?") for n, label in enumerate(labels)]
    rows += [row("long", response="a lung"), row("unusable", annotation=None)]
    answers = {str(n): [f"The answer is {label}."] for n, label in enumerate(labels)} | {"long": ["Something else"]}
    path = tmp_path / "round-1.jsonl"
    summary = correct_round(rows, similarity=SimilarToNo(), corrector=Fixed(answers), out_path=path)
    counted = summary.rejections.get("short_answers_below_correction_threshold")
    assert summary.corrected == good and counted == (4 - good if hinted else None)
    assert ("no rewording is as similar to the label as `correction_threshold: 0.8`" in caplog.text) == hinted
