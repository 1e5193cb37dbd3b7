# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""16 ranks: how each ends after an error, a kill, a signal or a late rank, and that the same command continues."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llamafactory_clinkd.utils.io import read_json, read_jsonl


pytestmark = pytest.mark.long
SCRIPT = Path(__file__).with_name("sixteen_ranks.py")
SIZE, ROWS, ONE = 16, 160, 7
SILENT, GRACE, BUSY = 10, 5, 40  # as the script sets them; a busy machine needs more


@pytest.fixture(scope="module")
def ranks():
    with subprocess.Popen(
        [sys.executable, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:

        def play(folder, what="nothing", rank=ONE, timeout=600, **options):
            scenario = {"folder": str(folder), "what": what, "rank": rank, "timeout": timeout, "limit": 150, **options}
            print(json.dumps(scenario), file=process.stdin, flush=True)
            while not (line := process.stdout.readline()).startswith("{"):  # LLaMA-Factory may print
                assert line, "the script ended"
            return json.loads(line)

        yield play
        process.stdin.close()


def logs(folder):
    return [(folder / f"rank{rank}.log").read_text() for rank in range(SIZE)]


def check_continues(ranks, folder):
    """The same command ends well, with the rows of an uninterrupted run, each once."""
    assert read_json(folder / "out" / "clinkd" / "state.json")["phases"]["predict"]["status"] == "started"
    written = [row["id"] for path in (folder / "out" / "clinkd").glob("*.rank*") for row in read_jsonl(path)]
    assert 3 * SIZE <= len(written) == len(set(written))
    assert ranks(folder)["codes"] == [0] * SIZE, logs(folder)
    check_finished(folder)


def check_finished(folder):
    clinkd = folder / "out" / "clinkd"
    expected = [{"id": f"row-{number:03d}", "text": f"answer {number}"} for number in range(ROWS)]
    assert read_jsonl(clinkd / "answers.jsonl") == expected
    assert sorted(path.name for path in clinkd.iterdir()) == ["answers.jsonl", "state.json"]
    assert read_json(clinkd / "state.json")["phases"]["predict"]["status"] == "finished"


def test_all_wait_while_rank_0_works_longer_than_the_time_limit(ranks, tmp_path):
    assert ranks(tmp_path, "rank 0 works alone", timeout=12)["codes"] == [0] * SIZE, logs(tmp_path)
    check_finished(tmp_path)


def test_an_error_on_one_rank_ends_all_and_each_names_it(ranks, tmp_path):
    ended = ranks(tmp_path, "error")
    assert ended["codes"] == [1] * SIZE and max(ended["seconds"]) < GRACE + BUSY
    first, *others = sorted(logs(tmp_path), key=lambda log: "Rank 7 failed" in log)
    assert "KeyError: 'the planned failure'" in first and "On rank 7 of 16, at phase predict, answers" in first
    assert all("Rank 7 failed: KeyError: 'the planned failure' (at phase predict, answers)" in log for log in others)
    check_continues(ranks, tmp_path)


def test_a_killed_rank_is_named_when_it_has_been_silent(ranks, tmp_path):
    ended = ranks(tmp_path, "kill")
    assert ended["codes"] == [-9 if rank == ONE else 1 for rank in range(SIZE)]
    assert max(ended["seconds"]) < SILENT + GRACE + BUSY
    text = "Rank 7 gave no sign of life for 10 s; it was last at phase predict, answers."
    assert all(text in log for rank, log in enumerate(logs(tmp_path)) if rank != ONE)
    check_continues(ranks, tmp_path)


def test_all_end_when_the_node_of_rank_0_is_lost(ranks, tmp_path):
    ended = ranks(tmp_path, "node lost", rank=0)
    assert ended["codes"] == [-9] + [1] * (SIZE - 1) and max(ended["seconds"]) < SILENT + GRACE + BUSY
    check_continues(ranks, tmp_path)


@pytest.mark.parametrize("terminated", [[ONE], list(range(SIZE))])
def test_a_signal_to_one_or_all_stops_all(ranks, tmp_path, terminated):
    ended = ranks(tmp_path, "signal", terminated=terminated)
    assert ended["codes"] == [143] * SIZE and max(ended["seconds"]) < BUSY, logs(tmp_path)
    stopped = [rank for rank, log in enumerate(logs(tmp_path)) if "SIGTERM: the run stops where it can be" in log]
    assert stopped == terminated
    check_continues(ranks, tmp_path)


def test_a_late_rank_is_named_with_its_place_and_ended(ranks, tmp_path):
    ended = ranks(tmp_path, "late", timeout=15)
    assert ended["codes"] == [1] * SIZE and max(ended["seconds"]) < 15 + GRACE + BUSY
    for rank, log in enumerate(logs(tmp_path)):
        if rank == ONE:
            assert "Rank 7 ends: " in log
        else:
            assert "waited 15 s at phase predict, answers for rank 7 (last at phase predict, answers)" in log
            assert "`ddp_timeout` sets this limit" in log
    check_continues(ranks, tmp_path)
