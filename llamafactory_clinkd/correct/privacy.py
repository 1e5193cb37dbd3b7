# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which texts of corrections leave the machine, and where they go.

Medical text goes to a loopback address, or nowhere, unless the recipe has ``correction_allow_remote: true``, and to
another machine only by https, unless it has ``correction_allow_http: true`` too. Images are never sent: no code here
reads one.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from ..arguments import PHASES
from ..utils import endpoint
from ..utils.endpoint import is_loopback
from ..utils.value_checks import split_list


SENT_TEXTS = "question, ground-truth answer and model's answer of every row that needs correction (never an image)"
resolve_base_url = partial(endpoint.resolve_base_url, prefix="correction")
require_allowed = partial(
    endpoint.require_allowed,
    allow_http=False,
    prefix="correction",
    texts=SENT_TEXTS,
    instead="use corrector: offline",
)


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
        require_allowed(resolve_base_url(url), allowed, allow_http=keys.get("correction_allow_http") is True)
    return describe_sending(kind, url, allowed)
