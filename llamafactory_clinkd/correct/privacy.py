# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which texts leave the machine, where they go, and how the key stays out of records and the texts out of logs.

Medical text goes to a loopback address, or nowhere, unless the recipe has ``correction_allow_remote: true``, and to
another machine only by https, unless it has ``correction_allow_http: true`` too. Images are never sent: no code here
reads one.
"""

import ipaddress
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ..arguments import PHASES
from ..utils.value_checks import split_list


OPENAI_URL = "https://api.openai.com/v1"
SENT_TEXTS = "question, ground-truth answer and model's answer of every row that needs correction (never an image)"
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?|[0-9A-Fa-f:.]+")
_URL = re.compile(r"[A-Za-z0-9._~:/\[\]%!$&'()*+,;=@?-]+")  # libraries differ in how they read other characters
MIN_KEY_LENGTH = 16  # a shorter one is a placeholder such as `none`, which an answer may contain as a word


class RemoteNotAllowedError(ValueError):
    """The recipe names a server on another machine without allowing it."""


def resolve_base_url(base_url: str | None) -> str:
    """The URL that a client would use: the argument, else ``OPENAI_BASE_URL``, else OpenAI's own.

    Raises:
        ValueError: If it is not an http(s) URL with a host and a usable port, or carries a user name or password.
    """
    url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    expected = "expected a URL such as http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:  # a port out of range, a bracket without its partner
        raise ValueError(f"correction_base_url is unusable ({error}): {expected}.") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "correction_base_url carries a user name or password: remove them and set the environment variable "
            "OPENAI_API_KEY."
        )
    usable = _URL.fullmatch(url) and parts.scheme in ("http", "https") and not parts.query
    if not usable or port == 0 or not _HOST.fullmatch(parts.hostname or ""):
        raise ValueError(f"correction_base_url is {url!r}: {expected}.")
    return url


def is_loopback(url: str) -> bool:
    """Whether the URL's host is ``localhost`` or a loopback address (127.0.0.0/8, ::1)."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # any other host name may resolve to any address
        return False


def require_allowed(url: str, allow_remote: bool, allow_http: bool = False) -> None:
    """Raises RemoteNotAllowedError if the server is on another machine and the recipe does not allow it."""
    if is_loopback(url):
        return
    if allow_remote and not allow_http and urlsplit(url).scheme == "http":
        raise RemoteNotAllowedError(
            f"The corrector would send {SENT_TEXTS}, and the API key, to {urlsplit(url).hostname} by plain http, "
            "which every machine on the way can read. Give correction_base_url an https:// address, or set "
            "correction_allow_http: true if the network in between is your own."
        )
    if not allow_remote:
        raise RemoteNotAllowedError(
            f"The corrector would send {SENT_TEXTS} to {urlsplit(url).hostname}. If these texts may leave this "
            "machine, set correction_allow_remote: true; else give correction_base_url a loopback address "
            "(http://127.0.0.1:8000/v1), or use corrector: offline."
        )


def require_key(url: str) -> None:
    """Raises ValueError if ``OPENAI_API_KEY`` cannot be sent, or is not set and the server is on another machine."""
    if not re.fullmatch(r"[!-~]*", os.environ.get("OPENAI_API_KEY", "")):
        raise ValueError("The environment variable OPENAI_API_KEY has blanks, line ends or characters outside ASCII.")
    if not os.environ.get("OPENAI_API_KEY") and not is_loopback(url):
        raise ValueError(
            f"The environment variable OPENAI_API_KEY is not set, and {urlsplit(url).hostname} requires a key: export "
            "it before the run. It is read from nowhere else."
        )


def redact_key(text: str) -> str:
    """The answer without the API key, which a server may repeat: every answer is recorded."""
    key = os.environ.get("OPENAI_API_KEY", "")
    return text.replace(key, "[key]") if len(key) >= MIN_KEY_LENGTH else text


@contextmanager
def quiet_http_loggers() -> Iterator[None]:
    """Keeps the HTTP libraries at warnings: some versions log whole requests at debug level."""
    levels = {name: logging.getLogger(name).level for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def describe_sending(kind: str, base_url: str | None = None, allow_remote: bool = False) -> str:
    """One line on what a corrector sends, and where; raises the errors of :func:`resolve_base_url`."""
    if kind != "openai":
        return f"{kind} corrector: nothing is sent anywhere"
    url = resolve_base_url(base_url)
    host = urlsplit(url).hostname
    if is_loopback(url):
        return f"openai corrector: {SENT_TEXTS} go to {host}, on this machine"
    if allow_remote:
        return f"openai corrector: {SENT_TEXTS} LEAVE THIS MACHINE for {host} (correction_allow_remote is true)"
    return f"openai corrector: refused, because {host} is another machine and correction_allow_remote is false"


def describe_recipe(keys: Mapping[str, Any]) -> str:
    """One line on what a recipe with these YAML keys sends, and where; for ``clinkd doctor --recipe``.

    Raises:
        ValueError: If the run would stop: the URL is unusable, or the server is remote and not allowed.
    """
    if not keys.get("use_clinkd"):
        return "no ClinKD phase runs: no text is sent anywhere"
    if "correct" not in split_list(keys.get("clinkd_phases") or PHASES):
        return "no phase `correct`: no text is sent anywhere"
    if keys.get("correction_rounds") == 1:
        return "one round corrects nothing: no text is sent anywhere"
    kind, url = keys.get("corrector") or "offline", keys.get("correction_base_url")
    allowed = keys.get("correction_allow_remote") is True
    if kind == "openai":
        require_allowed(resolve_base_url(url), allowed, keys.get("correction_allow_http") is True)
    return describe_sending(kind, url, allowed)
