# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``llamafactory-cli`` of the running environment as a subprocess, for the demo, ``clinkd reproduce`` and tests."""

import os
import sys
from pathlib import Path


def cli_command(*arguments: str | Path) -> list[str]:
    """The command line, with the executable beside this Python's; no activated environment is needed."""
    return [str(Path(sys.executable).with_name("llamafactory-cli")), *map(str, arguments)]


def cli_environment(**changes: str) -> dict[str, str]:
    """The environment with this Python's scripts on ``PATH`` (``FORCE_TORCHRUN=1`` calls ``torchrun`` by its name)."""
    search_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": search_path, **changes}
