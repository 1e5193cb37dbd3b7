# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest

from .engine_runs import keys_for, results


@pytest.fixture(scope="session")
def alone(workspace, tmp_path_factory):
    """Results of one process, by the number of rows that a step sees."""
    found = {}

    def run(window):
        if window not in found:
            from llamafactory.train.tuner import run_exp

            output_dir = tmp_path_factory.mktemp("alone") / f"window-{window}"
            run_exp(keys_for(workspace, output_dir, processes=1, window=window))
            found[window] = results(output_dir)
        return found[window]

    return run
