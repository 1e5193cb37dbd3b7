# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The server that generates a phase's answers, if the recipe names one and may send questions and pictures to it."""

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..arguments import PHASES
from ..key_conflicts import answers_by_server
from ..utils.endpoint import is_loopback, require_allowed, require_key, resolve_base_url
from ..utils.value_checks import split_list


logger = logging.getLogger(__name__)

SENT = "the question and the PICTURES of every row"


def describe_served(keys: Mapping[str, Any]) -> str:
    """One line on what a recipe with these YAML keys sends for its answers, and where; empty if nothing.

    Raises:
        ValueError: If the run would stop, as in :func:`served_model`.
    """
    url, chosen = keys.get("generation_base_url"), split_list(keys.get("clinkd_phases") or PHASES)
    phases = [each for each in split_list(keys.get("generation_phases") or "pseudo_label") if each in chosen]
    if not keys.get("use_clinkd") or not url or not phases:
        return ""
    host = _allowed_host(url, keys.get("generation_allow_remote") is True, keys.get("generation_allow_http") is True)
    where = f"go to {host}, on this machine" if is_loopback(url) else f"LEAVE THIS MACHINE for {host}"
    return f"answers of {', '.join(phases)}: {SENT} {where}"


def _allowed_host(url: str, allow_remote: bool, allow_http: bool) -> str | None:
    resolve_base_url(url, "generation")
    require_allowed(url, allow_remote, allow_http, prefix="generation", texts=SENT, instead="remove the key")
    return urlsplit(url).hostname


def served_model(settings: Any, phase: str) -> Any:
    """The ``ServedModel`` of a phase, None if the phase generates its answers itself; nothing is sent.

    Raises:
        ValueError: If the URL is unusable, the server is on another machine and not allowed, or the key is missing.
        ImportError: If the client is not installed.
    """
    if not answers_by_server(settings, phase):
        return None
    url = settings.generation_base_url
    host = _allowed_host(url, settings.generation_allow_remote, settings.generation_allow_http)
    require_key(url)
    try:
        from ..generation.served_model import ServedModel
    except ImportError as error:
        raise ImportError(
            "`generation_base_url` needs a client: pip install 'llamafactory-clinkd[openai]'."
        ) from error
    if not is_loopback(url):
        logger.warning("Phase %s: %s LEAVE THIS MACHINE for %s.", phase, SENT, host)
    return ServedModel(url, settings.generation_model, settings.generation_concurrency)
