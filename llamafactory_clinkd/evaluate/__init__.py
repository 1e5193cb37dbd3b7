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


"""Evaluation: the paper's four metrics on predictions of any known format, and the paper's own numbers.

- :func:`evaluate_predictions`, :func:`evaluate_file`: rows or a file to ``metrics.json``
- :func:`read_predictions`, :func:`read_rows`: rows of the shared vocabulary, and a list of what could not be read
- :func:`metrics_table`, :func:`progress_bar`: for the terminal
- :func:`require_spice`: whether the real SPICE can be computed
- :func:`mean_box_baseline`: grounding without looking
- :mod:`.paper`: Tables 1, 2 and 3
"""

from ..lazy import lazy_names


_OFFERED = {
    "evaluate_predictions": "evaluate",
    "evaluate_file": "evaluate",
    "read_predictions": "reading",
    "read_rows": "reading",
    "load_rows": "reading",
    "metrics_table": "table",
    "progress_bar": "progress",
    "require_spice": "spice",
    "mean_box_baseline": "baselines",
}

__all__ = list(_OFFERED)
__getattr__ = lazy_names(__name__, _OFFERED)
