# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Semantic-Aware Selective Generation (ClinKD, section 3.4, Algorithm 1): scores, ranks and selects candidates."""

from .consensus import ConsensusScorer, LogprobScorer, WeightedScorer
from .rank import fit_scorers, rank_scores, rerank, select_row, select_rows
from .scorers import DEFAULT_SCORER, WITHOUT_MODEL, ClipScorer, Scorer, ScorerError, check_scorer, load_scorer
from .views import REGIONS, Region


__all__ = [
    "DEFAULT_SCORER",
    "REGIONS",
    "WITHOUT_MODEL",
    "ClipScorer",
    "ConsensusScorer",
    "LogprobScorer",
    "Region",
    "Scorer",
    "ScorerError",
    "WeightedScorer",
    "check_scorer",
    "fit_scorers",
    "load_scorer",
    "rank_scores",
    "rerank",
    "select_row",
    "select_rows",
]
