# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Evaluation: the paper's four metrics on predictions of any known format, and the paper's own numbers.

- :func:`evaluate_predictions`, :func:`evaluate_file`: rows or a file to ``metrics.json``
- :func:`read_predictions`, :func:`read_rows`: rows of the shared vocabulary, and a list of the malformed ones
- :func:`metrics_table`, :func:`progress_bar`: for the terminal; :func:`format_percent`: a score as text
- :func:`require_spice`: checks that the real SPICE can run
- :func:`mean_box_baseline`: grounding without the image
- :mod:`.paper_tables`: Tables 1, 2 and 3
"""

from ..utils.lazy import lazy_names


_EXPORTS = {
    "scoring": ("evaluate_predictions", "evaluate_file"),
    "predictions": ("read_predictions", "read_rows", "load_rows"),
    "score_table": ("metrics_table", "progress_bar", "format_percent"),
    "spice": ("require_spice",),
    "mean_box": ("mean_box_baseline",),
}
_HOMES = {name: module for module, names in _EXPORTS.items() for name in names}
__all__ = list(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)
