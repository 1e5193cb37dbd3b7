# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The server that generates a phase's answers, if the recipe names one and may send questions and pictures to it."""

import logging
from typing import Any
from urllib.parse import urlsplit

from ..key_conflicts import answers_by_server
from ..utils.endpoint import is_loopback, require_allowed, require_key, resolve_base_url


logger = logging.getLogger(__name__)

SENT = "the question and the PICTURES of every row"


def served_model(settings: Any, phase: str) -> Any:
    """The ``ServedModel`` of a phase, None if the phase generates its answers itself; nothing is sent.

    Raises:
        ValueError: If the URL is unusable, the server is on another machine and not allowed, or the key is missing.
        ImportError: If the client is not installed.
    """
    if not answers_by_server(settings, phase):
        return None
    url = resolve_base_url(settings.generation_base_url, "generation")
    allowed = settings.generation_allow_remote, settings.generation_allow_http
    require_allowed(url, *allowed, prefix="generation", texts=SENT, instead="remove the key")
    require_key(url)
    try:
        from ..generation.served_model import ServedModel
    except ImportError as error:
        raise ImportError(
            "`generation_base_url` needs a client: pip install 'llamafactory-clinkd[openai]'."
        ) from error
    if not is_loopback(url):
        logger.warning("Phase %s: %s LEAVE THIS MACHINE for %s.", phase, SENT, urlsplit(url).hostname)
    return ServedModel(url, settings.generation_model, settings.generation_concurrency)
