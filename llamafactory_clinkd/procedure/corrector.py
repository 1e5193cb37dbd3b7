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

"""The recipe's corrector."""

from typing import Any

from ..correct import Corrector, make_corrector


def recipe_corrector(settings: Any) -> Corrector:
    """Builds the corrector that the ClinKD keys name.

    Raises:
        ValueError: If the server is not on this machine and may not be used, or its key is missing.
        ImportError: If its client is not installed.
    """
    return make_corrector(
        settings.corrector,
        model=settings.correction_model,
        base_url=settings.correction_base_url,
        candidates=settings.correction_candidates,
        concurrency=settings.correction_concurrency,
        max_requests=settings.correction_max_requests,
        allow_remote=settings.correction_allow_remote,
        prompt_path=settings.correction_prompt,
    )
