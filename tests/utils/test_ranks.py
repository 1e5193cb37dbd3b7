# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Ranks as threads over one real store."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as distributed

from llamafactory_clinkd.utils.ranks import RankError, Ranks, Stopped


@pytest.fixture
def store():
    return distributed.TCPStore("127.0.0.1", 0, 1, is_master=True)


@pytest.fixture
def make(store):
    made = []

    def ranks(size, **options):
        options = {"timeout": 5, "beat": 0.02, "silent": 60, "grace": 60, "end": made.append} | options
        found = [Ranks(rank, size, distributed.PrefixStore("run", store), **options) for rank in range(size)]
        made_ranks.extend(found)
        return found

    made_ranks = []
    ranks.ended = made
    yield ranks
    for each in reversed(made_ranks):
        each.close()


def all_at_once(*calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        return [each.exception() for each in [pool.submit(call) for call in calls]]


def test_alone_waits_for_nobody():
    alone = Ranks()
    alone.wait("anywhere")
    with alone.long_running("anywhere"):
        alone.fail("nothing")
        alone.signal_stop("nothing")
    alone.raise_failure()
    assert Ranks.of_process_group(60).size == 1


def test_nobody_passes_before_the_last(make):
    reached = []

    def go(rank, pause):
        time.sleep(pause)
        reached.append("came")
        rank.wait("gate")
        reached.append("passed")

    ranks = make(3)
    assert all_at_once(*(lambda r=r, p=p: go(r, p) for r, p in zip(ranks, (0, 0.1, 0.2), strict=True))) == [None] * 3
    assert reached == ["came"] * 3 + ["passed"] * 3


def test_the_rank_that_may_host_the_store_leaves_last(make):
    ranks = make(3)
    first = threading.Thread(target=ranks[0].close)
    first.start()
    ranks[1].close()
    first.join(0.3)
    assert first.is_alive()
    ranks[2].close()
    first.join(30)
    assert not first.is_alive()


def test_after_a_failure_it_does_not_wait_for_the_dead(make):
    ranks = make(2)
    ranks[0].fail("no memory")
    ranks[0].close()


def test_missing_rank_is_named_with_its_place(make):
    ranks = make(3, timeout=1.5)  # a busy machine may hold a thread up for as long
    ranks[2].set_location("phase distill")
    errors = all_at_once(lambda: ranks[0].wait("phase predict"), lambda: ranks[1].wait("phase predict"))
    for error in errors:
        assert isinstance(error, RankError)
        assert "at phase predict for rank 2 (last at phase distill)" in str(error) and "ddp_timeout" in str(error)


def test_rank_that_works_alone_is_waited_for(make):
    ranks = make(2, timeout=1.5)

    def work():
        with ranks[0].long_running("correction"):
            time.sleep(2.5)
        ranks[0].wait("gate")

    assert all_at_once(work, lambda: ranks[1].wait("gate")) == [None, None]


def test_failure_is_heard_by_those_who_wait_and_ends_those_who_cannot_hear(make):
    ranks = make(2, grace=0.1)
    ranks[1].fail("ValueError: no such key (at phase distill)")
    with pytest.raises(RankError, match="Rank 1 failed: ValueError: no such key"):
        ranks[0].wait("gate")
    deadline = time.monotonic() + 10
    while len(make.ended) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert make.ended == [1, 1]  # neither was closed: both count as hanging


def test_first_failure_counts(make):
    ranks = make(2)
    ranks[1].fail("the cause")
    ranks[0].fail("a consequence")
    with pytest.raises(RankError, match="the cause"):
        ranks[0].raise_failure()


def test_silent_rank_is_named(make):
    ranks = make(2, silent=0.2, timeout=30)
    ranks[1].set_location("phase correct")
    ranks[1].close()  # its watch ends as that of a killed process does
    with pytest.raises(RankError, match="Rank 1 gave no sign of life .* last at phase correct"):
        ranks[0].wait("gate")


def test_stop_reaches_every_rank(make):
    ranks = make(3)
    assert [each.stop_reason() for each in ranks] == ["", "", ""]
    ranks[1].request_stop("SIGTERM")
    deadline = time.monotonic() + 10
    while not all(each.stop_reason() for each in ranks) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [each.stop_reason() for each in ranks] == ["SIGTERM"] * 3


def test_reason_is_known_once_the_ranks_agreed(make):
    """The ranks agree by a flag of their engine, which may be faster than the next sign of life."""
    ranks = make(2, beat=60)
    ranks[1].request_stop("SIGTERM")
    assert ranks[1].stop_reason() == "SIGTERM" and ranks[0].stop_reason() == ""
    assert ranks[0].agreed_stop_reason() == "SIGTERM"


def test_rank_that_left_is_not_waited_for(make):
    ranks = make(2)
    threading.Timer(0.1, lambda: ranks[0].signal_stop("before phase predict")).start()
    with pytest.raises(Stopped, match="before phase predict"):
        ranks[1].wait("phase predict")


def test_rank_0_computes_and_all_have_the_result(make):
    ranks, computed, found = make(3), [], {}

    def compute():
        computed.append(1)
        return {"hash": "é" * 3, "attempt": len(computed)}

    def go(rank):
        found[rank.rank] = [rank.from_first(compute, "a hash") for _ in range(2)]

    assert all_at_once(*(lambda r=r: go(r) for r in ranks)) == [None] * 3
    expected = [{"hash": "ééé", "attempt": 1}, {"hash": "ééé", "attempt": 2}]
    assert found == dict.fromkeys(range(3), expected) and len(computed) == 2
    assert Ranks().from_first(compute, "a hash")["attempt"] == 3


def test_folder_that_all_ranks_share_passes_and_is_left_as_it_was(make, tmp_path):
    ranks = make(3)
    assert all_at_once(*(lambda r=r: r.require_shared(tmp_path, 5) for r in ranks)) == [None] * 3
    assert list(tmp_path.iterdir()) == []
    Ranks().require_shared(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_folder_of_one_node_only_is_refused_with_the_requirement(make, tmp_path):
    """Two nodes, each with its own `output_dir`."""
    ranks = make(2)

    def go(rank):
        try:
            rank.require_shared(tmp_path / f"node{rank.rank}", 0.3)
        except ValueError as error:
            rank.fail(str(error))
            raise

    first, second = all_at_once(*(lambda r=r: go(r) for r in ranks))
    assert isinstance(first, RankError) and isinstance(second, ValueError)
    for error in (first, second):
        assert "does not see what rank 0 writes to `output_dir:" in str(error) and "docs/scaling.md" in str(error)
    assert list((tmp_path / "node0").iterdir()) == []


def test_reason_of_a_stop_is_there_before_a_rank_leaves(make):
    """A rank that is released by another one's leaving must be able to give the reason."""
    ranks = make(2, beat=60)
    ranks[1].request_stop("SIGTERM")
    ranks[1].signal_stop("before phase predict")
    with pytest.raises(Stopped):
        ranks[0].wait("phase predict")
    assert ranks[0].agreed_stop_reason() == "SIGTERM"
