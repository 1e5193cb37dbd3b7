# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Several pages watch one run: each waits for its end and shows it."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from llamafactory_clinkd.webui.monitor import drain, view_of_page


PRINT_AND_END = "import sys, time\nfor _ in range(40): print('line', file=sys.stderr, flush=True); time.sleep(0.02)"


def test_two_pages_that_wait_for_one_process_both_get_its_output():
    """Without one reader one of the two raises EBADF or ValueError now and then: its pipe is closed by the other."""
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", PRINT_AND_END], stderr=subprocess.PIPE, text=True)
        drain(process)
        drain(process)

        def watch(process=process):
            while True:
                try:
                    return process.communicate(timeout=0.05)[1]
                except subprocess.TimeoutExpired:
                    continue

        with ThreadPoolExecutor(3) as pool:
            outputs = [pool.submit(watch) for _ in range(3)]
        assert [each.result() for each in outputs] == ["line\n" * 40] * 3 and process.returncode == 0


PRINT_MUCH = "import sys\nfor _ in range(4000): print('a line of the run' * 8, file=sys.stderr)"  # 544 kB


def test_a_run_that_no_page_watches_any_more_ends(runner):
    """A closed page stops reading; the pipe holds 64 KiB. A page that comes later still gets all of the output."""
    runner.trainer.communicate()
    process = subprocess.Popen([sys.executable, "-c", PRINT_MUCH], stderr=subprocess.PIPE, text=True)
    runner.trainer = process
    try:
        view_of_page(runner)  # a page opens, and is closed at once
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    output = view_of_page(runner).trainer.communicate(timeout=60)[1]
    assert output == ("a line of the run" * 8 + "\n") * 4000


def test_a_page_that_waits_too_short_a_time_is_told_so():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    stdin, process.stdin = process.stdin, None
    drain(process)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.1)
    stdin.write(b"go on\n")
    stdin.close()
    assert process.communicate(timeout=60)[1] == b"" and process.returncode == 0


@pytest.fixture
def runner(monkeypatch):
    """Stock's own ``Runner`` that watches a process which ends by itself."""
    import gradio as gr
    from llamafactory.webui.runner import Runner

    messages = []
    monkeypatch.setattr(gr, "Info", messages.append)
    watched = Runner(manager=None)
    watched.messages = messages
    watched.trainer = subprocess.Popen([sys.executable, "-c", PRINT_AND_END], stderr=subprocess.PIPE, text=True)
    watched.running_data = {"box": 1}
    return watched


def test_the_page_that_ends_first_takes_nothing_from_the_other(runner):
    process = runner.trainer
    first, second = view_of_page(runner), view_of_page(runner)
    assert runner.running and first.trainer is second.trainer is process
    process.communicate()
    first._finalize("en", "finished")
    assert (runner.trainer, runner.running, runner.running_data) == (None, False, None) and first.trainer is None
    assert second.trainer is process and second.running_data == {"box": 1}
    second._finalize("en", "finished")
    assert runner.messages == ["finished", "finished"]


def test_a_run_started_since_is_left_alone(runner):
    late = view_of_page(runner)
    runner.trainer.communicate()
    view_of_page(runner)._finalize("en", "finished")
    runner.trainer, runner.running = later_run = object(), True
    late._finalize("en", "finished")
    assert (runner.trainer, runner.running) == later_run


def test_an_abort_is_seen_by_every_page_also_by_one_that_came_later_or_ends_later(runner):
    from llamafactory.webui.locales import ALERTS

    first = view_of_page(runner)
    runner.aborted = True
    later = view_of_page(runner)
    later.aborted = False  # what stock's monitor does first
    assert first.aborted and later.aborted and runner.aborted
    runner.trainer.communicate()
    first._finalize("en", "failed")
    later._finalize("en", "failed")
    assert runner.messages == [ALERTS["info_aborted"]["en"]] * 2 and not runner.aborted


def test_an_abort_pressed_before_a_run_is_not_of_that_run(runner):
    runner.aborted = True
    assert not view_of_page(runner).aborted and not runner.aborted


def test_without_a_process_the_view_is_the_runner(runner):
    runner.trainer.communicate()
    runner.trainer = None
    assert view_of_page(runner) is runner
