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
MAX_SCORES_BODY = 2**30  # bytes of a response: vLLM has no way to leave out the prompt's positions
SCORED = "the question, the answer and the PICTURES of every row"


def describe_served(keys: Mapping[str, Any]) -> str:
    """One line on what a recipe with these YAML keys sends for its answers, and where; empty if nothing.

    Raises:
        ValueError: If the run would stop, as in :func:`served_model`.
    """
    lines = [_describe_answers(keys), _describe_teacher(keys)] if keys.get("use_clinkd") else []
    return "; ".join(line for line in lines if line)


def _describe_teacher(keys: Mapping[str, Any]) -> str:
    url = keys.get("kd_teacher_base_url")
    if not url or "distill" not in split_list(keys.get("clinkd_phases") or PHASES):
        return ""
    allowed = (keys.get(f"kd_teacher_allow_{name}") is True for name in ("remote", "http"))
    return (
        f"teacher of distill: {SCORED} {_where(url, _allowed_host(url, *allowed, prefix='kd_teacher', texts=SCORED))}"
    )


def _describe_answers(keys: Mapping[str, Any]) -> str:
    url, chosen = keys.get("generation_base_url"), split_list(keys.get("clinkd_phases") or PHASES)
    phases = [each for each in split_list(keys.get("generation_phases") or "pseudo_label") if each in chosen]
    if not url or not phases:
        return ""
    host = _allowed_host(url, keys.get("generation_allow_remote") is True, keys.get("generation_allow_http") is True)
    return f"answers of {', '.join(phases)}: {SENT} {_where(url, host)}"


def _where(url: str, host: str | None) -> str:
    return f"go to {host}, on this machine" if is_loopback(url) else f"LEAVE THIS MACHINE for {host}"


def _allowed_host(
    url: str, allow_remote: bool, allow_http: bool, *, prefix: str = "generation", texts: str = SENT
) -> str | None:
    resolve_base_url(url, prefix)
    require_allowed(url, allow_remote, allow_http, prefix=prefix, texts=texts, instead="remove the key")
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
    make = _client(url, "generation_base_url")
    if not is_loopback(url):
        logger.warning("Phase %s: %s LEAVE THIS MACHINE for %s.", phase, SENT, host)
    same = phase != "pseudo_label" or bool(settings.ref_model or settings.ref_model_adapters)
    return make(url, settings.generation_model, settings.generation_concurrency, same_processor=same)


def served_teacher(settings: Any) -> Any:
    """The ``ServedModel`` that is the teacher of phase distill, None if the recipe names none; nothing is sent.

    Raises:
        ValueError, ImportError: As in :func:`served_model`.
    """
    url = settings.kd_teacher_base_url
    if url is None or "distill" not in settings.clinkd_phases:
        return None
    allowed = settings.kd_teacher_allow_remote, settings.kd_teacher_allow_http
    host = _allowed_host(url, *allowed, prefix="kd_teacher", texts=SCORED)
    make = _client(url, "kd_teacher_base_url")
    if not is_loopback(url):
        logger.warning("Phase distill: %s LEAVE THIS MACHINE for %s.", SCORED, host)
    return make(url, settings.kd_teacher_model, key="kd_teacher_model", max_body=MAX_SCORES_BODY)


def _client(url: str, key: str) -> Any:
    require_key(url)
    try:
        from ..generation.served_model import ServedModel
    except ImportError as error:
        raise ImportError(f"`{key}` needs a client: pip install 'llamafactory-clinkd[openai]'.") from error
    return ServedModel
