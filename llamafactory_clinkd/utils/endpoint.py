# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which server a recipe may use: a loopback address, or another machine that it allows, and by https.

Keys come from the environment; the HTTP libraries log no request.
"""

import ipaddress
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


OPENAI_URL = "https://api.openai.com/v1"
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?|[0-9A-Fa-f:.]+")
_URL = re.compile(r"[A-Za-z0-9._~:/\[\]%!$&'()*+,;=@?-]+")  # libraries differ in how they read other characters
MIN_KEY_LENGTH = 16  # a shorter one is a placeholder such as `none`, which an answer may contain as a word


class RemoteNotAllowedError(ValueError):
    """The recipe names a server on another machine without allowing it."""


def resolve_base_url(base_url: str | None, prefix: str) -> str:
    """The URL that a client would use: the argument, else ``OPENAI_BASE_URL``, else OpenAI's own.

    ``prefix`` begins the names of the recipe's keys, here and below: ``correction`` or ``generation``.

    Raises:
        ValueError: If it is not an http(s) URL with a host and a usable port, or carries a user name or password.
    """
    url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    expected = "expected a URL such as http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:  # a port out of range, a bracket without its partner
        raise ValueError(f"{prefix}_base_url is unusable ({error}): {expected}.") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"{prefix}_base_url carries a user name or password: remove them and set the environment variable "
            "OPENAI_API_KEY."
        )
    usable = _URL.fullmatch(url) and parts.scheme in ("http", "https") and not parts.query
    if not usable or port == 0 or not _HOST.fullmatch(parts.hostname or ""):
        raise ValueError(f"{prefix}_base_url is {url!r}: {expected}.")
    return url


def is_loopback(url: str) -> bool:
    """Whether the URL's host is ``localhost`` or a loopback address (127.0.0.0/8, ::1)."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # any other host name may resolve to any address
        return False


def require_allowed(url: str, allow_remote: bool, allow_http: bool, *, prefix: str, texts: str, instead: str) -> None:
    """Raises RemoteNotAllowedError if the server is on another machine and the recipe does not allow it.

    ``texts`` names what would be sent, ``instead`` what to do without a server.
    """
    sends = f"`{prefix}_base_url` would send {texts}"
    if is_loopback(url):
        return
    if allow_remote and not allow_http and urlsplit(url).scheme == "http":
        raise RemoteNotAllowedError(
            f"{sends}, and the API key, to {urlsplit(url).hostname} by plain http, "
            f"which every machine on the way can read. Give {prefix}_base_url an https:// address, or set "
            f"{prefix}_allow_http: true if the network in between is your own."
        )
    if not allow_remote:
        raise RemoteNotAllowedError(
            f"{sends} to {urlsplit(url).hostname}. If this may leave the machine, set {prefix}_allow_remote: true; "
            f"else give {prefix}_base_url a loopback address (http://127.0.0.1:8000/v1), or {instead}."
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
