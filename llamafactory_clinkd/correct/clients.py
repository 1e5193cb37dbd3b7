# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The official client, built and kept so that neither texts nor the key go where they should not."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .privacy import is_loopback


if TYPE_CHECKING:
    import openai

NO_KEY = "no-key-needed"
SHORTEST_SECRET = 16
"""Characters; what is shorter is a placeholder such as ``EMPTY`` or ``none``, which may be an honest word."""


def require_clients() -> None:
    """Raises ImportError, with the command, if the client's libraries are not installed."""
    try:
        import openai  # noqa: F401
        import tenacity  # noqa: F401
    except ImportError as error:
        message = "The openai corrector needs its client: pip install 'llamafactory-clinkd[openai]'."
        raise ImportError(message) from error


def make_client(url: str, timeout: float) -> "openai.AsyncOpenAI":
    """A client without redirects and, on loopback, without proxies of the environment: both could leak text."""
    import openai

    http = openai.DefaultAsyncHttpxClient(follow_redirects=False, trust_env=not is_loopback(url))
    return openai.AsyncOpenAI(
        api_key=os.environ.get("OPENAI_API_KEY") or NO_KEY,
        base_url=url,
        timeout=timeout,
        max_retries=0,
        http_client=http,
    )


def without_key(text: str) -> str:
    """An answer without the key: answers are recorded, rejected ones too, and a server may repeat what it was sent."""
    key = os.environ.get("OPENAI_API_KEY", "")
    return text.replace(key, "[key]") if len(key) >= SHORTEST_SECRET else text


@contextlib.contextmanager
def quiet_clients() -> Iterator[None]:
    """Keeps the HTTP libraries at warnings: some versions write whole requests, with our texts, at debug level."""
    loggers = [logging.getLogger(name) for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2")]
    levels = [(each, each.level) for each in loggers]
    for each in loggers:
        each.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for each, level in levels:
            each.setLevel(level)
