# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Correction by an OpenAI-compatible server: requests in parallel, retries, a budget, and no text in any log.

``docs/correction.md`` lists what follows each failure; a failed row keeps its ground truth. The library's own retries
are off: they do not cover broken bodies, and they cannot be interrupted when a run stops.
"""

import asyncio
import logging
import os
import queue
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from ..utils.io import content_hash
from .corrector import CorrectionItem, CorrectionResult, Usage
from .privacy import is_loopback, quiet_http_loggers, redact_key, require_allowed, require_key, resolve_base_url
from .prompt import PromptTemplate, response_format
from .server_answers import AnswerError, message_text, parse_answer


try:
    import openai
    from anyio.from_thread import start_blocking_portal
except ImportError as error:
    message = "The openai corrector needs its client: pip install 'llamafactory-clinkd[openai]'."
    raise ImportError(message) from error

logger = logging.getLogger(__name__)

UNREACHABLE_AFTER = 20  # failed rows in a row
MAX_RETRY_AFTER = 300.0  # seconds
MAX_BODY = 4 * 2**20  # bytes of a response, decompressed
MAX_GROUP = 32  # results
MAX_WAIT = 1.0  # seconds without a result until an empty group


class RequestError(Exception):
    """A request failed. ``code`` is short and holds no text from the server, which may repeat the key or the row."""

    def __init__(self, code: str, *, transient: bool = False):
        super().__init__(code)
        self.code = code
        self.transient = transient  # whether the same request may succeed later


class BodyTooLargeError(Exception):
    """A response has more than :data:`MAX_BODY` bytes."""


class BoundedHttpClient(openai.DefaultAsyncHttpxClient):
    """Reads at most :data:`MAX_BODY` bytes of each response, those of errors included."""

    async def send(self, request: Any, **options: Any) -> Any:
        """See the base class; the response is read already.

        Raises:
            BodyTooLargeError: If it has more bytes.
        """
        response = await super().send(request, **{**options, "stream": True})
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BODY:
                    raise BodyTooLargeError
        finally:
            await response.aclose()
        dropped = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in dropped]
        return type(response)(response.status_code, headers=headers, content=bytes(body), request=request)


@dataclass(kw_only=True)
class OpenAICorrector:
    """Requests rewordings through the official client; :func:`.make_corrector` documents arguments and errors."""

    base_url: str | None = None
    model: str = "gpt-4o"
    allow_remote: bool = False
    allow_http: bool = False
    candidates: int = 3
    concurrency: int = 16
    max_requests: int | None = None
    prompt_path: str | Path | None = None
    timeout: float = 60.0  # seconds for a whole request
    max_attempts: int = 6  # requests for one row
    backoff: float = 1.0  # seconds before the first retry; doubles with each retry up to 32 times that, plus jitter

    def __post_init__(self):
        for name in ("candidates", "concurrency", "max_requests", "max_attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                key = name if name == "max_attempts" else f"correction_{name}"
                raise ValueError(f"{key} is {value}: expected at least 1.")
        self._url = resolve_base_url(self.base_url)
        require_allowed(self._url, self.allow_remote, self.allow_http)
        require_key(self._url)
        self._prompt = PromptTemplate(self.prompt_path)
        self.prompt_text = self._prompt.fixed_text
        self.name = f"openai:{self.model}:{content_hash(self.prompt_text)[:12]}:{self.candidates}"
        self.start_round(Usage())

    def start_round(self, usage: Usage) -> None:
        """See :meth:`.Corrector.start_round`."""
        self.usage = usage
        self._structured = True
        self._stop_code: str | None = None
        self._failures_in_a_row = 0
        self._not_before = 0.0  # time of the event loop at which the server's last Retry-After ends

    def correct(self, items: Iterable[CorrectionItem]) -> Iterator[list[CorrectionResult]]:
        """See :meth:`.Corrector.correct`. Closing the iterator cancels the requests in flight."""
        results: queue.SimpleQueue[CorrectionResult | None] = queue.SimpleQueue()
        with quiet_http_loggers(), start_blocking_portal() as portal:
            producer = portal.start_task_soon(self._correct_all, iter(items), results.put)
            producer.add_done_callback(lambda _: results.put(None))
            ended = False
            while not ended:
                group = _next_group(results)
                if ended := None in group:
                    group.remove(None)
                yield group
            producer.result()

    async def _correct_all(self, items: Iterator[CorrectionItem], emit: Callable[[CorrectionResult], None]) -> None:
        """Runs ``concurrency`` workers, each of which takes the next item when it is free."""
        # Redirects and, on loopback, the environment's proxies would carry texts to another machine.
        http = BoundedHttpClient(follow_redirects=False, trust_env=not is_loopback(self._url))
        key = os.environ.get("OPENAI_API_KEY") or "no-key-needed"
        client = openai.AsyncOpenAI(
            api_key=key, base_url=self._url, timeout=self.timeout, max_retries=0, http_client=http
        )

        async def work() -> None:
            for item in items:
                emit(await self._correct_one(client, item))

        async with client, asyncio.TaskGroup() as workers:
            for _ in range(self.concurrency):
                workers.create_task(work())

    async def _correct_one(self, client: openai.AsyncOpenAI, item: CorrectionItem) -> CorrectionResult:
        try:
            content = await self._request_with_retries(client, self._prompt.render(item, self.candidates))
            result = CorrectionResult(item.id, parse_answer(content, self.candidates))
        except RequestError as error:
            self._count_failure(error)
            return CorrectionResult(item.id, (), error.code)
        except AnswerError as error:
            result = CorrectionResult(item.id, (), str(error))
        self._failures_in_a_row = 0
        return result

    async def _request_with_retries(self, client: openai.AsyncOpenAI, prompt: str) -> str:
        for attempt in range(self.max_attempts - 1):
            try:
                return await self._request(client, prompt)
            except RequestError as error:
                if not error.transient:
                    raise
            await asyncio.sleep(min(2**attempt, 32) * self.backoff + random.uniform(0, self.backoff))
        return await self._request(client, prompt)

    async def _request(self, client: openai.AsyncOpenAI, prompt: str) -> str:
        """One attempt; a structured request that the server refuses is repeated as a plain one."""
        options = {"response_format": response_format(self.candidates)} if self._structured else {}
        try:
            return await self._send(client, prompt, **options)
        except RequestError as error:
            if not options or error.code not in ("http_400", "http_422"):
                raise
        content = await self._send(client, prompt)
        self._structured = False
        return content

    async def _send(self, client: openai.AsyncOpenAI, prompt: str, **options: Any) -> str:
        """Sends one request, if any is still allowed, and counts it; returns the text of the first choice.

        Raises:
            RequestError: If the request failed.
            AnswerError: If the answer was cut off or refused.
        """
        loop = asyncio.get_running_loop()
        while (pause := self._not_before - loop.time()) > 0:
            await asyncio.sleep(pause)
        if self.max_requests is not None and self.usage.requests >= self.max_requests:
            self._stop("budget", "The budget correction_max_requests is spent")
        if self._stop_code:
            raise RequestError(self._stop_code)

        self.usage.requests += 1
        messages = [{"role": "user", "content": prompt}]
        try:
            async with asyncio.timeout(self.timeout):  # the client's own timeout starts anew with every byte
                completion = await client.chat.completions.create(model=self.model, messages=messages, **options)
        except openai.APIStatusError as error:
            if error.code == "content_filter":
                raise AnswerError(error.code) from None
            pause, status = retry_after(error), error.status_code
            transient = (status in (408, 409, 429) or status >= 500) and pause <= MAX_RETRY_AFTER
            if transient:
                self._not_before = max(self._not_before, loop.time() + pause)
            raise RequestError(f"http_{status}", transient=transient) from None
        except (openai.APITimeoutError, TimeoutError):
            raise RequestError("timeout", transient=True) from None
        except (openai.APIConnectionError, BodyTooLargeError) as error:  # some versions wrap every error
            if BodyTooLargeError in (type(error), type(error.__cause__)):
                raise RequestError("too_large") from None
            raise RequestError("connection", transient=True) from None
        except (openai.APIResponseValidationError, ValueError, RecursionError):  # not JSON, not UTF-8, deep nesting
            raise RequestError("bad_body", transient=True) from None
        usage = getattr(completion, "usage", None)
        for key in ("prompt_tokens", "completion_tokens"):
            count = getattr(usage, key, None)
            setattr(self.usage, key, getattr(self.usage, key) + (count if isinstance(count, int) else 0))
        try:
            return redact_key(message_text(completion.choices[0]))
        except (AttributeError, LookupError, TypeError):  # JSON or text, but not a completion with a message
            raise RequestError("bad_body", transient=True) from None

    def _count_failure(self, error: RequestError) -> None:
        """Counts a failed row; stops the requests when the server refuses them or seems to be down."""
        self._failures_in_a_row = self._failures_in_a_row + 1 if error.transient else 0
        if error.code in ("http_401", "http_403", "http_404"):
            fix = "check OPENAI_API_KEY, correction_model and correction_base_url"
            self._stop(error.code, f"The corrector's server refuses the requests: {fix}")
        elif self._failures_in_a_row >= max(UNREACHABLE_AFTER, 3 * self.concurrency):
            self._stop("unreachable", f"{self._failures_in_a_row} rows failed one after another at the server")

    def _stop(self, code: str, message: str) -> None:
        if self._stop_code is None:
            logger.warning("%s (%s). The rest of this round's rows keep their ground truth.", message, code)
            self._stop_code = code


def retry_after(error: Any) -> float:
    """The seconds of an error's ``Retry-After`` header, given as seconds or as a date; 0 without a usable one."""
    value = error.response.headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
            seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError):  # a year or a time zone that no date can have overflows
            return 0.0
    return seconds if seconds > 0 else 0.0  # "nan" too


def _next_group(results: queue.SimpleQueue) -> list[CorrectionResult | None]:
    """The results so far, at most :data:`MAX_GROUP`; none after :data:`MAX_WAIT`, so that a reader can stop."""
    try:
        group = [results.get(timeout=MAX_WAIT)]
    except queue.Empty:
        return []
    while len(group) < MAX_GROUP and not results.empty():
        group.append(results.get())
    return group
