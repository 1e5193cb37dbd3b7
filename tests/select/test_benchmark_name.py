# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import sys
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not beside the tests")
def test_no_benchmark_hides_a_module_of_the_standard_library():
    """A script's folder comes first on its path: a `select.py` there would be every benchmark's `select`."""
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert "selection" in names and not names & sys.stdlib_module_names
