# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Semantic-Aware Selective Generation (ClinKD, section 3.4, Algorithm 1): scores, ranks and selects candidates."""

from .rank import rank_scores, rerank, select_row, select_rows
from .scorers import DEFAULT_SCORER, ClipScorer, LogprobScorer, Scorer, ScorerError, check_scorer, load_scorer


__all__ = [
    "DEFAULT_SCORER",
    "ClipScorer",
    "LogprobScorer",
    "Scorer",
    "ScorerError",
    "check_scorer",
    "load_scorer",
    "rank_scores",
    "rerank",
    "select_row",
    "select_rows",
]
