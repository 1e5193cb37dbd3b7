# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Whether a corrector's server is this machine, and what would leave the machine if it is not.

Medical text goes to a loopback address, or nowhere, unless the recipe says ``correction_allow_remote: true``. Images
are never sent: no code here reads one.
"""

import ipaddress
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..arguments import PHASES
from ..utils.value_checks import split_list


OPENAI_URL = "https://api.openai.com/v1"
SENT = "question, ground-truth answer and model's answer of every row that needs correction (never an image)"


class RemoteNotAllowedError(ValueError):
    """The recipe names a server on another machine without allowing it."""


def resolve_base_url(base_url: str | None) -> str:
    """The URL that a client would use: the argument, else ``OPENAI_BASE_URL``, else OpenAI's own.

    Raises:
        ValueError: If it is not an http(s) URL with a host, or carries a user name or password.
    """
    url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "correction_base_url carries a user name or password: take it out and give the key in the environment "
            "variable OPENAI_API_KEY."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"correction_base_url is {url!r}: expected a URL such as http://127.0.0.1:8000/v1.")
    return url


def is_loopback(url: str) -> bool:
    """Whether the URL's host is ``localhost`` or a loopback address (127.0.0.0/8, ::1)."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name: where it leads is for others to decide
        return False


def require_allowed(url: str, allow_remote: bool) -> None:
    """Refuses a server on another machine unless the recipe allows it.

    Raises:
        RemoteNotAllowedError: The message says what would be sent, where, and which key allows it.
    """
    if not allow_remote and not is_loopback(url):
        raise RemoteNotAllowedError(
            f"The corrector would send {SENT} to {urlsplit(url).hostname}. If these texts may leave this machine, set "
            "correction_allow_remote: true; else give correction_base_url a loopback address "
            "(http://127.0.0.1:8000/v1), or use corrector: offline."
        )


def describe_sending(kind: str, base_url: str | None = None, allow_remote: bool = False) -> str:
    """One line on what a recipe sends, and where; for ``clinkd doctor``.

    Raises:
        ValueError: If the URL is unusable: see :func:`resolve_base_url`.
    """
    if kind == "offline":
        return "offline corrector: nothing is sent anywhere"
    url = resolve_base_url(base_url)
    host = urlsplit(url).hostname
    if is_loopback(url):
        return f"openai corrector: {SENT} go to {host}, on this machine"
    if allow_remote:
        return f"openai corrector: {SENT} LEAVE THIS MACHINE for {host} (correction_allow_remote is true)"
    return f"openai corrector: refused, because {host} is another machine and correction_allow_remote is false"


def describe_recipe(keys: Mapping[str, Any]) -> str:
    """One line on what a recipe with these YAML keys sends, and where; for ``clinkd doctor --recipe``.

    Raises:
        ValueError: If the run would stop for it: an unusable URL, or another machine that is not allowed.
    """
    if not keys.get("use_clinkd"):
        return "no ClinKD phase runs: no text is sent anywhere"
    if "correct" not in split_list(keys.get("clinkd_phases") or PHASES):
        return "no phase `correct`: no text is sent anywhere"
    if keys.get("correction_rounds") == 1:
        return "one round has nothing to correct for: no text is sent anywhere"
    kind, url = keys.get("corrector") or "offline", keys.get("correction_base_url")
    allowed = keys.get("correction_allow_remote") is True
    if kind != "offline":
        require_allowed(resolve_base_url(url), allowed)
    return describe_sending(kind, url, allowed)
