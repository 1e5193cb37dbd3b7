# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A teacher behind a server that fails in every way a real one does: nothing is lost, and the same call continues."""

import random

import pytest
import torch
from score_server import ScoreServer
from transformers import AutoTokenizer

from llamafactory_clinkd.kd.teacher_cache import HiddenCache


pytest.importorskip("openai", reason="the openai client is not installed")
COUNT, TOP, GROUP = 30, 5, 8
KEYS = [f"row {number}" for number in range(COUNT)]


@pytest.fixture(scope="module")
def rows():
    """Texts of random ids, whose answers have 1 to 5 tokens."""
    from llamafactory_clinkd.kd.served_scores import ServedRow

    rng = random.Random(1)
    ids = [[rng.randrange(20, 200) for _ in range(rng.randrange(8, 13))] for _ in KEYS]
    return {
        key: ServedRow(each, [-100] * (len(each) - number % 5 - 1) + each[len(each) - number % 5 - 1 :], [])
        for number, (key, each) in enumerate(zip(KEYS, ids, strict=True))
    }


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr("llamafactory_clinkd.kd.served_teacher.GROUP", GROUP)


def teacher(server, rows, folder, **options):
    from llamafactory_clinkd.generation.served_model import ServedModel
    from llamafactory_clinkd.kd.served_scores import Scorer
    from llamafactory_clinkd.kd.served_teacher import ServedTeacher

    served = ServedModel(
        server.url, **{"concurrency": 4, "max_attempts": 3, "backoff": 0.001, "timeout": 60} | options
    )
    served.find_model()
    cache = HiddenCache(folder, teacher="served", hidden_size=2 * TOP)
    return ServedTeacher(Scorer(served, TOP, lambda images: images, None), cache, rows)


def scores(server, row):
    """What a row's scores must be."""
    _, logprobs = server.score(row.ids, [])
    values, ids = logprobs[[position - 1 for position in row.positions]].topk(TOP)
    return ids, values


def check(server, made, rows, keys=KEYS):
    """The scores in the cache are the model's."""
    for key in keys:
        found = made.top([made.cache.get(key)], torch.tensor([[1] * len(rows[key].positions)]))
        ids, values = scores(server, rows[key])
        assert torch.equal(found.ids, ids) and torch.allclose(found.logprobs, values, atol=1e-5)


def test_transient_faults_lose_nothing(small_workspace, rows, tmp_path):
    kinds = ["500", "503", "drop", "html", "hang", None]

    def fault(number, attempt):
        return random.Random(f"{number} {attempt}").choice(kinds) if number and attempt < 2 else None

    shown = []
    with ScoreServer(small_workspace / "teacher", fault) as server:
        made = teacher(server, rows, tmp_path, timeout=3)
        made.score_rows(KEYS, show=lambda *progress: shown.append(progress))
        assert len(server.asked) > 1.5 * COUNT
        check(server, made, rows)
    assert shown[-1] == (COUNT, COUNT)


@pytest.mark.parametrize(
    ("kind", "code"),
    [("500", "http_500"), ("400", "http_400"), ("hang", "timeout"), ("drop", "connection"), ("html", "bad_body")]
    + [("cut", "cut"), ("too_few", "wrong_count"), ("logits", "bad_logprobs")],
)
def test_a_row_that_fails_is_asked_for_again(small_workspace, rows, tmp_path, kind, code):
    with ScoreServer(small_workspace / "teacher", lambda number, attempt: kind if number == 3 else None) as server:
        with pytest.raises(RuntimeError, match=f"1 of {COUNT} rows have no scores: 1 with {code}"):
            teacher(server, rows, tmp_path, timeout=3 if kind == "hang" else 60).score_rows(KEYS)
        server.fault = lambda number, attempt: None
        server.asked.clear()
        made = teacher(server, rows, tmp_path)
        made.compare()
        made.score_rows(KEYS)
        assert server.asked.count(3) == 1 and len(server.asked) == 4 + 1 + 1  # compared, scored, compared
        check(server, made, rows)


def test_a_server_that_goes_ends_the_run_soon_and_keeps_the_rows(small_workspace, rows, tmp_path):
    with ScoreServer(small_workspace / "teacher") as server:
        server.fault = lambda number, attempt: "503" if len(server.rows) > 20 else None
        with pytest.raises(RuntimeError, match="fails on a row that it scored before"):
            teacher(server, rows, tmp_path, backoff=0.3).score_rows(KEYS)
        assert len(server.rows) < COUNT, "further rows are sent to a server that is gone"
        server.fault = lambda number, attempt: None
        made = teacher(server, rows, tmp_path)
        kept = [key for key in KEYS if key in made.cache]
        assert len(kept) >= GROUP
        check(server, made, rows, kept)
        server.asked.clear()
        made.compare()
        made.score_rows(KEYS)
        assert len(server.asked) <= 4 + (COUNT - len(kept)) + 3
        check(server, made, rows)


def test_a_server_that_was_never_there(small_workspace, rows, tmp_path):
    with ScoreServer(small_workspace / "teacher") as server:
        made = teacher(server, rows, tmp_path)
    with pytest.raises(RuntimeError, match="does not answer"):
        made.score_rows(KEYS)
    assert len(made.cache) == 0


def test_no_score_of_another_model_is_kept(small_workspace, rows, tmp_path):
    with ScoreServer(small_workspace / "teacher") as server, ScoreServer(small_workspace / "teacher") as same:
        changed = []

        def fault(number, attempt):
            if number == 24 and not changed:
                changed.append(server.become_another_model())

        server.fault = fault
        with pytest.raises(RuntimeError, match="has another model than the one that scored rows before"):
            teacher(server, rows, tmp_path).score_rows(KEYS)
        made = teacher(server, rows, tmp_path)
        kept = [key for key in KEYS if key in made.cache]
        assert GROUP <= len(kept) < COUNT
        check(same, made, rows, kept)
        with pytest.raises(RuntimeError, match="has another model"):
            made.compare()
        made = teacher(same, rows, tmp_path)
        made.compare()
        made.score_rows(KEYS)
        check(same, made, rows)


def test_other_tokens_at_the_server_end_the_run(small_workspace, rows, tmp_path):
    from llamafactory_clinkd.kd.served_scores import TokenMismatchError

    with ScoreServer(
        small_workspace / "teacher", lambda number, attempt: "tokens" if number == 20 else None
    ) as server:
        with pytest.raises(TokenMismatchError, match=r"it has (\d+) tokens here, 0 of them for images, and .* there"):
            teacher(server, rows, tmp_path).score_rows(KEYS)


def test_a_stop_keeps_what_was_compared(small_workspace, rows, tmp_path):
    def stop():
        if len(server.asked) > 20:
            raise InterruptedError

    with ScoreServer(small_workspace / "teacher") as server:
        with pytest.raises(InterruptedError):
            teacher(server, rows, tmp_path).score_rows(KEYS, stop_if_requested=stop)
    cache = HiddenCache(tmp_path, teacher="served", hidden_size=2 * TOP)
    assert GROUP <= len(cache) < COUNT


def test_rollouts_are_scored_as_sampled_or_not_at_all(small_workspace, rows, tmp_path):
    """A rollout may have any ids, and none."""
    some = {key: rows[key] for key in KEYS[:2]}
    sampled = [("row 0", [30, 31, 32, 33], [-100, -100, 32, 33]), ("row 1", [30, 31], [-100, -100])]
    with ScoreServer(small_workspace / "teacher") as server:
        made = teacher(server, some, tmp_path)
        made.score_rows(list(some))
        found, empty = made.score(sampled)
        assert found.shape == (2, 2 * TOP) and empty.shape == (0, 2 * TOP)
        ids, values = scores(server, rows["row 0"]._replace(ids=sampled[0][1], labels=sampled[0][2]))
        top = made.top([found, empty], torch.tensor([[32, 33], [-100, -100]]))
        assert torch.equal(top.ids[:2], ids) and torch.allclose(top.logprobs[:2], values, atol=1e-5)
        with pytest.raises(ValueError, match="A row has 2 scores for 1 supervised"):
            made.top([found], torch.tensor([[32, -100]]))
        server.fault = lambda number, attempt: "500" if number == 2 else None
        with pytest.raises(RuntimeError, match="1 of 1 sampled answers have no scores: 1 with http_500"):
            made.score(sampled)
        server.fault = lambda number, attempt: None
        server.become_another_model()
        with pytest.raises(RuntimeError, match="has another model"):
            made.score(sampled)


def test_flags_and_vocabulary_are_checked(small_workspace, tmp_path):
    from llamafactory_clinkd.generation.served_model import ServedModel
    from llamafactory_clinkd.kd.served_scores import check_server

    tokenizer = AutoTokenizer.from_pretrained(small_workspace / "student")
    with ScoreServer(small_workspace / "teacher") as server:
        served = ServedModel(server.url, max_attempts=1, key="kd_teacher_model")
        check_server(served, tokenizer, 20)
        with pytest.raises(RuntimeError, match="`--max-logprobs 21`, or lower `kd_teacher_top_k`"):
            check_server(served, tokenizer, 21)
        stock, token = server.processor.tokenizer.decode, tokenizer.decode([77])
        server.processor.tokenizer.decode = lambda ids: stock([78 if i == 77 else i for i in ids])
        with pytest.raises(ValueError, match=f"id 77 is {token!r} here"):
            check_server(served, tokenizer, 20)
        server.scale_out = False
        with pytest.raises(RuntimeError, match="--enable-scale-out"):
            check_server(served, tokenizer, 20)
        with pytest.raises(RuntimeError, match=r"serves \['teacher'\], not `kd_teacher_model: other`"):
            check_server(ServedModel(server.url, "other", key="kd_teacher_model"), tokenizer, 20)
    with pytest.raises(RuntimeError, match="does not answer"):
        check_server(ServedModel(server.url, max_attempts=1), tokenizer, 20)
