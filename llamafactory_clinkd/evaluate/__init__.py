# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Evaluation: the paper's four metrics and VQA's on predictions of any known format, and the paper's own numbers.

The main functions are :func:`evaluate_predictions` and :func:`evaluate_file`, which return ``metrics.json``,
:func:`read_predictions` and :func:`blind_scores`. :mod:`.paper_tables` has Tables 1, 2 and 3.
"""

from ..utils import lazy_names


_HOMES = {
    "evaluate_predictions": "scoring", "evaluate_file": "scored_files", "training_rows": "scored_files",
    "read_predictions": "predictions", "read_rows": "predictions",
    "load_rows": "prediction_files", "with_kept_columns": "prediction_files",
    "metrics_table": "score_table", "progress_bar": "score_table", "format_percent": "score_table",
    "compare_predictions": "compare", "comparison_table": "compare",
    "require_spice": "spice", "mean_box_baseline": "blind", "blind_scores": "blind", "tasks_without_blind": "blind",
}  # fmt: skip
__all__ = list(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)
