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

"""Every text of the accordion in LLaMA Board's five languages, one JSON file each."""

from functools import cache
from pathlib import Path
from typing import Any

from ...run_state import read_json


LANGUAGES = ("en", "ru", "zh", "ko", "ja")


@cache
def texts(lang: str | None) -> dict[str, Any]:
    """The catalogue of a language: ``groups``, ``phases``, ``reasons``, ``messages``, ``chat`` and ``elements``.

    Before the page has told its language (``None``), and for any that LLaMA Board may add, it is English.
    """
    return read_json(Path(__file__).with_name(f"{lang if lang in LANGUAGES else 'en'}.json"))
