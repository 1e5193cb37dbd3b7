# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a failed request means: whether to try again, how long to wait, and the short code that is recorded.

No message of a server is kept: it may repeat the key or our texts.
"""

import asyncio
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any


MAX_RETRY_AFTER = 300.0
"""Seconds; a server that asks for a longer wait is not asked again for that row."""
_RETRIED = frozenset({408, 409, 429})
_REFUSED = frozenset({401, 403, 404})


class GiveUpError(Exception):
    """No candidates for this row; ``code`` says why."""

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code


class BadBodyError(Exception):
    """The server's answer is no chat completion: a proxy's HTML, half a body, no choices."""


def failures() -> tuple[type[Exception], ...]:
    """The exceptions that a request can fail with, through nobody's programming error."""
    import openai

    return (openai.APIStatusError, openai.APIConnectionError, TimeoutError, BadBodyError)


def code_of(error: Exception) -> str:
    """The short code of a failure, such as ``http_500``, ``timeout``, ``connection``, ``bad_body``."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return f"http_{error.status_code}"
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return "timeout"
    return "bad_body" if isinstance(error, BadBodyError) else "connection"


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    import openai

    if isinstance(error, openai.APIStatusError):
        again = error.status_code in _RETRIED or error.status_code >= 500
        return again and retry_after(error) <= MAX_RETRY_AFTER
    return isinstance(error, failures())


def is_refusal(error: Exception) -> bool:
    """Whether every other request would fail in the same way: wrong key, wrong model, wrong path."""
    import openai

    return isinstance(error, openai.APIStatusError) and error.status_code in _REFUSED


def retry_after(error: BaseException | None) -> float:
    """The seconds that the server asks to wait: ``Retry-After`` as seconds or as a date; 0 if it does not ask."""
    response = getattr(error, "response", None)
    value = response.headers.get("retry-after", "").strip() if response is not None else ""
    try:
        seconds = float(value)
    except ValueError:  # a date, or nothing usable
        try:
            date = parsedate_to_datetime(value)
            seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError):  # a year or a time zone that no date can have overflows
            return 0.0
    return seconds if seconds > 0 else 0.0  # "nan" too


async def complete(client: Any, timeout: float, **request: Any) -> Any:
    """One chat completion within ``timeout`` seconds, however slowly its bytes come.

    Returns:
        An ``openai.types.chat.ChatCompletion`` with at least one choice that has a message.

    Raises:
        Exception: One of :func:`failures`.
    """
    import openai
    from openai.types.chat import ChatCompletion, ChatCompletionMessage

    try:
        async with asyncio.timeout(timeout):
            answer = await client.chat.completions.create(**request)
    except (ValueError, RecursionError, openai.APIResponseValidationError):  # no JSON, no UTF-8, brackets without end
        raise BadBodyError from None
    if not isinstance(answer, ChatCompletion) or not isinstance(answer.choices, list) or not answer.choices:
        raise BadBodyError
    if not isinstance(getattr(answer.choices[0], "message", None), ChatCompletionMessage):
        raise BadBodyError
    return answer


def tokens_of(answer: Any) -> tuple[int, int]:
    """Prompt and completion tokens that a completion says it took; 0 for a count that is absent or no number."""
    found = (getattr(answer.usage, key, None) for key in ("prompt_tokens", "completion_tokens"))
    prompt, completion = (count if isinstance(count, int) else 0 for count in found)
    return prompt, completion
