# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import os
import signal
import subprocess
import sys

import pytest

from llamafactory_clinkd.utils.io import file_lock


HOLDER = """
import sys
from llamafactory_clinkd.utils.io import file_lock
with file_lock(sys.argv[1], wait=False):
    print("held", flush=True)
    sys.stdin.read()
"""
COUNTER = """
import sys
from pathlib import Path
from llamafactory_clinkd.utils.io import file_lock
counter = Path(sys.argv[2])
for _ in range(100):
    with file_lock(sys.argv[1], wait=True):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def holder(path):
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], text=True, **pipe)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.slow
def test_a_held_lock_is_refused_with_the_process_that_holds_it(tmp_path):
    path = tmp_path / "a.lock"
    process = holder(path)
    with pytest.raises(ValueError, match=rf"a converter \(process {process.pid}\) is still writing"):
        with file_lock(path, wait=False, holder="a converter"):
            pass
    process.communicate("")
    assert process.returncode == 0 and not path.exists()
    with file_lock(path, wait=False):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(ValueError, match=f"process {os.getpid()}"):
            with file_lock(path, wait=False):
                pass
    assert not path.exists()


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    path = tmp_path / "a.lock"
    process = holder(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()
    with file_lock(path, wait=False):
        pass
    assert not path.exists()


@pytest.mark.slow
def test_those_who_wait_get_it_one_after_the_other(tmp_path):
    (tmp_path / "counter").write_text("0")
    command = [sys.executable, "-c", COUNTER, str(tmp_path / "a.lock"), str(tmp_path / "counter")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "300"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "a.lock").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError):
        with file_lock(tmp_path / "a.lock", wait=False):
            pass
    assert not (tmp_path / "outside").exists()
