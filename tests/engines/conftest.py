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
