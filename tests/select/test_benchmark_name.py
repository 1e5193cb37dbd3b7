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
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not beside the tests")
def test_benchmarks_select_does_not_hide_the_standard_library(tmp_path):
    """A script's folder comes first on its path, so `benchmarks/select.py` is found before the library's `select`."""
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import select, selectors; print(select.__file__)"
    code += f"; select.select; assert sys.path[0] == {str(BENCHMARKS)!r}"
    run = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert str(BENCHMARKS) not in run.stdout
