# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``llamafactory-cli`` in processes of their own, forked from one that has imported LLaMA-Factory and no more.

The import takes eight seconds of processor time. Two things differ from a fresh start: the variables of the
environment are set after the import, and all processes have one seed of ``hash``. Where that matters, and where the
start itself is tested, a test starts a fresh process (``small_run.llamafactory_cli(fresh=True)``, ``start_recipe``).
"""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["llamafactory.train.tuner", "llamafactory_clinkd.phases.runner"])


def start(
    *arguments: str | Path, env: dict[str, str] | None = None, first: str = "", log: str | Path = os.devnull
) -> ForkServerProcess:
    """Starts ``llamafactory-cli`` as the leader of a session, on one thread; the Python code ``first`` runs before it.

    ``env`` are further variables; standard output goes to the file ``log``, standard error to that with ``.err``.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    process = CONTEXT.Process(target=_main, args=([*map(str, arguments)], variables, first, str(log)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # torch reads it when it is imported, in the process that is forked
        process.start()
    return process


def run(
    *arguments: str | Path, timeout: float, ranks: list[dict[str, str]] | None = None, first: str = ""
) -> subprocess.CompletedProcess:
    """Runs ``llamafactory-cli`` to its end, or a process for each dictionary of variables in ``ranks``.

    One that fails ends the others, as torchrun does; its code is returned, with the outputs of all.
    """
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, str(rank)) for rank in range(len(ranks or [{}]))]
        processes = [
            start(*arguments, env=env, first=first, log=log) for env, log in zip(ranks or [{}], logs, strict=True)
        ]
        deadline = time.monotonic() + timeout
        try:
            while None in (codes := [each.exitcode for each in processes]) and not any(codes):
                if time.monotonic() > deadline:
                    raise subprocess.TimeoutExpired([*arguments], timeout)
                wait([each.sentinel for each in processes if each.exitcode is None], 1)
        finally:
            for process in processes:
                if process.exitcode is None:
                    os.kill(process.pid, signal.SIGKILL)
                    process.join()
        out, err = ("".join(Path(f"{log}{end}").read_text(encoding="utf-8") for log in logs) for end in ("", ".err"))
        return subprocess.CompletedProcess([*arguments], next(filter(None, codes), 0), out, err)


def _main(arguments: list[str], variables: dict[str, str], first: str, log: str) -> None:
    """What the installed script does, and what Python does at its end."""
    from llamafactory.cli import main

    os.setsid()
    for path, number in ((log, 1), (log if log == os.devnull else f"{log}.err", 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["llamafactory-cli", *arguments]
    code: object = 0
    try:
        exec(first, {})
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
