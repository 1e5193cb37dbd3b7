# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Requests to an OpenAI-compatible server, many at a time: bounded answers, short error codes, retries, a pace.

The library's own retries are off: they do not cover broken bodies, and they cannot be interrupted when a run stops.
"""

import asyncio
import os
import queue
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import openai
from anyio.from_thread import start_blocking_portal

from .endpoint import is_loopback, quiet_http_loggers


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
    """A response has more bytes than are read."""


class BoundedHttpClient(openai.DefaultAsyncHttpxClient):
    """Reads at most ``max_body`` bytes of each response, those of errors included."""

    max_body = MAX_BODY

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
                if len(body) > self.max_body:
                    raise BodyTooLargeError
        finally:
            await response.aclose()
        dropped = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in dropped]
        return type(response)(response.status_code, headers=headers, content=bytes(body), request=request)


class ChatServer:
    """The chat completions of one server; an instance keeps the pause that the server's last Retry-After demands."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        max_attempts: int,
        backoff: float,
        before: Callable[[], None] = lambda: None,
        max_body: int = MAX_BODY,
    ) -> None:
        """Seconds for a whole request, requests for one row, and seconds before the first retry.

        The wait doubles with each retry, up to 32 times ``backoff``, plus jitter. ``before`` is called before each
        request and may raise RequestError. ``max_body`` limits the bytes of a response, decompressed.
        """
        self.url, self.timeout, self.max_attempts, self.backoff = url, timeout, max_attempts, backoff
        self._max_body = max_body
        self._before = before
        self._not_before = 0.0  # time of the event loop at which the server's last Retry-After ends

    def client(self) -> openai.AsyncOpenAI:
        """A client, which is an asynchronous context manager."""
        # Redirects and, on loopback, the environment's proxies would carry texts to another machine.
        remote = not is_loopback(self.url)
        tls = remote or not self.url.startswith("http://")  # reading the certificates takes longer than a request
        http = BoundedHttpClient(follow_redirects=False, trust_env=remote, verify=tls)
        http.max_body = self._max_body
        key = os.environ.get("OPENAI_API_KEY") or "no-key-needed"
        return openai.AsyncOpenAI(
            api_key=key, base_url=self.url, timeout=self.timeout, max_retries=0, http_client=http
        )

    def stream(
        self, items: Iterable[Any], work: Callable[[openai.AsyncOpenAI, Any], Awaitable[Any]], concurrency: int
    ) -> Iterator[list[Any]]:
        """Yields groups of the results of ``work(client, item)``, as they come; a group is empty after a second.

        ``concurrency`` workers take the next item when they are free. Closing the iterator cancels what is in flight.
        """
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        waiting = iter(items)

        async def run() -> None:
            async def worker(client: openai.AsyncOpenAI) -> None:
                for item in waiting:
                    results.put(await work(client, item))

            async with self.client() as client, asyncio.TaskGroup() as workers:
                for _ in range(concurrency):
                    workers.create_task(worker(client))

        with quiet_http_loggers(), start_blocking_portal() as portal:
            producer = portal.start_task_soon(run)
            producer.add_done_callback(lambda _: results.put(None))
            ended = False
            while not ended:
                group = _next_group(results)
                if ended := None in group:
                    group.remove(None)
                yield group
            producer.result()

    async def retried(self, request: Callable[[], Awaitable[Any]]) -> Any:
        """The result of ``request()``, which is called again while it raises a transient RequestError."""
        for attempt in range(self.max_attempts - 1):
            try:
                return await request()
            except RequestError as error:
                if not error.transient:
                    raise
            await asyncio.sleep(min(2**attempt, 32) * self.backoff + random.uniform(0, self.backoff))
        return await request()

    async def complete(self, client: openai.AsyncOpenAI, **body: Any) -> Any:
        """One chat completion; raises RequestError."""
        return await self.call(client.chat.completions.create, **body)

    async def call(self, request: Callable[..., Awaitable[Any]], **body: Any) -> Any:
        """``request(**body)`` of the client; raises RequestError."""
        loop = asyncio.get_running_loop()
        while (pause := self._not_before - loop.time()) > 0:
            await asyncio.sleep(pause)
        self._before()
        try:
            async with asyncio.timeout(self.timeout):  # the client's own timeout starts anew with every byte
                return await request(**body)
        except openai.APIStatusError as error:
            if error.code == "content_filter":
                raise RequestError(error.code) from None
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


def _next_group(results: queue.SimpleQueue) -> list[Any]:
    """The results so far, at most :data:`MAX_GROUP`; none after :data:`MAX_WAIT`, so that a reader can stop."""
    try:
        group = [results.get(timeout=MAX_WAIT)]
    except queue.Empty:
        return []
    while len(group) < MAX_GROUP and not results.empty():
        group.append(results.get())
    return group
