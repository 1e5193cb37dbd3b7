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

"""The training rows of a run: always the same ones under the same numbers, whichever phase asks."""

from typing import Any

from .run import Run, seeded_subset


def training_part(run: Run, rows: Any) -> Any:
    """The rows that stock would train on: without those that ``val_size`` holds out."""
    data = run.recipe.data
    if data.val_size < 1e-6 or data.eval_dataset:
        return rows
    from llamafactory.data.data_utils import split_dataset

    train, _ = split_dataset(rows, None, data, seed=run.recipe.training.seed)
    return train["train"]


def choose_subset(run: Run, rows: Any) -> Any:
    """The ``pseudo_label_samples`` rows that the teacher labels and the student is distilled on (section 4.1)."""
    wanted = run.settings.pseudo_label_samples
    return rows.select(seeded_subset(len(rows), wanted, run.recipe.training.seed, "pseudo_label"))
