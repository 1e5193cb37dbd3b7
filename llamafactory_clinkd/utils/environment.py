# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The running environment: its packages and their versions, and its ``llamafactory-cli`` as a subprocess."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import BinaryIO


POLL_SECONDS = 0.5


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of ``python`` and of each distribution, or ``not installed``."""
    found = {package: installed_version(package) or "not installed" for package in packages}
    return {"python": platform.python_version()} | found


def installed_version(package: str) -> str | None:
    """The version of a distribution, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def require_library(name: str, extra: str, needed: str) -> ModuleType:
    """The module of an optional library; ``needed`` begins the error without it: ``The report's figures need``.

    Raises:
        ModuleNotFoundError: With the command that installs the extra.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{needed} {name}: pip install 'llamafactory-clinkd[{extra}]'.") from error


def cli_command(*arguments: str | Path) -> list[str]:
    """The command line, with the executable beside this Python's; no activated environment is needed."""
    return [str(Path(sys.executable).with_name("llamafactory-cli")), *map(str, arguments)]


def cli_environment(**changes: str) -> dict[str, str]:
    """The environment with this Python's scripts on ``PATH`` (``FORCE_TORCHRUN=1`` calls ``torchrun`` by its name)."""
    search_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": search_path, **changes}


def run_logged(command: list[str], log: BinaryIO, on_poll: Callable[[], None], **changes: str) -> int:
    """Runs a command with its output in ``log`` and returns its code; an exception of ``on_poll`` terminates it.

    ``on_poll`` is called twice a second; ``changes`` are those of :func:`cli_environment`.
    """
    process = subprocess.Popen(command, env=cli_environment(**changes), stdout=log, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            on_poll()
            time.sleep(POLL_SECONDS)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return process.returncode
