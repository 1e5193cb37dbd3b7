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

"""Semantic-Aware Selective Generation (ClinKD, section 3.4, Algorithm 1): score stored candidates, rank, choose.

Public names: :func:`load_scorer`, :func:`check_scorer`, :class:`Scorer`, :func:`select_rows`, :func:`select_row`,
:func:`rerank`, :func:`train_demo_scorer`.
"""

from .demo_scorer import train_demo_scorer
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
    "train_demo_scorer",
]
