# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""An error on one rank ends all, and is told first; a rank that is killed is not waited for."""

import json
import time

import pytest
from small_run import recipe

from .engine_runs import executed_at_start, launch


pytestmark = pytest.mark.slow

# Executed by every worker at its start (`sitecustomize`): rank 1 fails before its first batch.
FAIL_ON_RANK_1 = """
import os
if os.environ.get("RANK") == "1":
    import wrapt

    def spoil(module):
        def plan_batches(lengths, batch_size):
            import pathlib
            pathlib.Path(__file__).with_name("failed").touch()
            raise KeyError("the planned failure")
        module.plan_batches = plan_batches

    wrapt.register_post_import_hook(spoil, "llamafactory_clinkd.generation.generate")
"""


def test_error_on_one_rank_ends_all_within_a_minute(workspace, tmp_path):
    keys = recipe(workspace, tmp_path / "out", clinkd_phases="pseudo_label,distill")
    done = launch(keys, processes=2, **executed_at_start(tmp_path / "site", FAIL_ON_RANK_1))
    ended = time.time()
    assert done.returncode != 0
    assert ended - (tmp_path / "site" / "failed").stat().st_mtime < 60  # what is promised, not how fast it is
    first = done.stderr.index("KeyError: 'the planned failure'")
    assert "On rank 1 of 2, at phase pseudo_label, teacher's pseudo-labels" in done.stderr
    told = done.stderr.find("Rank 1 failed: KeyError: 'the planned failure' (at phase pseudo_label")
    assert told == -1 or told > first  # rank 0 may end by torchrun's signal before it says why
    root = done.stderr[done.stderr.index("Root Cause") :]
    assert "rank      : 1" in root and "the planned failure" in root and "plan_batches" in root
    state = json.loads((tmp_path / "out" / "clinkd" / "state.json").read_text(encoding="utf-8"))
    assert state["phases"]["pseudo_label"]["status"] == "started"
