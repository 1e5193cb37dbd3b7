# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Every text of the accordions in LLaMA Board's five languages, one JSON file per language."""

from functools import cache
from pathlib import Path
from typing import Any

from ...utils.io import read_json


LANGUAGES = ("en", "ru", "zh", "ko", "ja")


@cache
def texts(lang: str | None) -> dict[str, Any]:
    """The catalogue of a language: ``groups``, ``reasons``, ``board``, ``messages``, ``chat`` and ``elements``.

    English if the page has not reported its language yet (``None``), and for languages without a catalogue.
    """
    return read_json(Path(__file__).with_name(f"{lang if lang in LANGUAGES else 'en'}.json"))
