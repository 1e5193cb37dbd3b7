# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "command", [["evaluate"], ["select"], ["report"], ["doctor"], ["attention"], ["data", "check"]]
)
def test_commands_start_without_torch(command):
    """It takes seconds and half a gigabyte, which evaluation and data commands have no use for."""
    code = (
        "import sys; from llamafactory_clinkd.cli import main\n"
        f"sys.argv = ['clinkd', *{command!r}, '--help']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Usage" in done.stdout
