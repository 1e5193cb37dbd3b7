# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Correction by any OpenAI-compatible server: bounded concurrency, patient retries, a budget, no text in any log.

What may happen to a request, and what is done:

===============================================  ============================================================
429, 408, 409, 5xx, timeout, cut connection,     tried again after exponential backoff with jitter, or the
a body that is no chat completion                server's Retry-After if that is longer; other rows hold back
                                                 as long after a Retry-After. One beyond 300 s gives the row up
400, 422 to a structured request                 asked again without ``response_format``, then and from there on
401, 403, 404                                    given up, and so is every later row of the round
other status, redirects                          given up for this row
rows in a row given up after all attempts        at :data:`UNREACHABLE_AFTER`, or ``3 * concurrency`` if more,
                                                 the server counts as down for the rest of the round
the budget is spent                              later rows are given up without a request
===============================================  ============================================================

A row given up keeps its ground truth. The key is taken out of an answer that repeats it.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..utils.io import content_hash
from .clients import make_client, quiet_clients, require_clients, without_key
from .corrector import CorrectionItem, CorrectionResult, Usage
from .failures import GiveUpError, code_of, complete, failures, is_refusal, is_transient, retry_after, tokens_of
from .privacy import is_loopback, require_allowed, resolve_base_url
from .prompt import PromptTemplate, parse_answer, response_format
from .streaming import stream


if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

UNREACHABLE_AFTER = 20


class OpenAICorrector:
    """Asks an OpenAI-compatible server for rewordings, with the official client.

    Args:
        model: The model's name on the server.
        base_url: The server; default ``OPENAI_BASE_URL``, else OpenAI's own.
        candidates: Rewordings asked for in each request, >= 1.
        concurrency: Requests in flight at once, >= 1.
        max_requests: Budget of requests a round, retries included.
        allow_remote: Whether texts may go to another machine.
        prompt_path: A template in place of the built-in one.
        timeout: Seconds for a whole request.
        max_attempts: Requests for one row, >= 1.
        backoff: Seconds before the first retry; doubled each time up to 32 times that, plus jitter.

    Raises:
        ValueError: If a value is out of range, or a remote server is not allowed or lacks ``OPENAI_API_KEY``.
        ImportError: If the client is not installed; the message gives the command.
    """

    def __init__(
        self,
        *,
        model: str = "gpt-4o",
        base_url: str | None = None,
        candidates: int = 3,
        concurrency: int = 16,
        max_requests: int | None = None,
        allow_remote: bool = False,
        prompt_path: str | Path | None = None,
        timeout: float = 60.0,
        max_attempts: int = 6,
        backoff: float = 1.0,
    ):
        for key, value in (
            ("correction_candidates", candidates),
            ("correction_concurrency", concurrency),
            ("correction_max_requests", max_requests),
            ("max_attempts", max_attempts),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{key} is {value}: expected at least 1.")
        self._url = resolve_base_url(base_url)
        require_allowed(self._url, allow_remote)
        if not os.environ.get("OPENAI_API_KEY") and not is_loopback(self._url):
            raise ValueError(
                f"The environment variable OPENAI_API_KEY is not set, and {urlsplit(self._url).hostname} wants a key: "
                "export it before the run. It is read from nowhere else."
            )
        require_clients()
        self._prompt = PromptTemplate(prompt_path)
        self._model, self._candidates, self._concurrency = model, candidates, concurrency
        self._max_requests, self._timeout = max_requests, timeout
        self._max_attempts, self._backoff = max_attempts, backoff
        self.prompt_text = self._prompt.fixed_text
        self.name = f"openai:{model}:{content_hash(self.prompt_text)[:12]}:{candidates}"
        self.start_round(Usage())

    def start_round(self, usage: Usage) -> None:
        """See :meth:`.Corrector.start_round`."""
        self.usage = usage
        self._structured = True
        self._stopped: str | None = None
        self._given_up_in_a_row = 0
        self._not_before = 0.0

    def correct(self, items: Iterable[CorrectionItem]) -> Iterator[list[CorrectionResult]]:
        """See :meth:`.Corrector.correct`. Each of ``concurrency`` workers takes the next item when it is free."""

        async def produce(emit: Callable[[CorrectionResult], None]) -> None:
            queue = iter(items)
            async with make_client(self._url, self._timeout) as client, asyncio.TaskGroup() as workers:
                for _ in range(self._concurrency):
                    workers.create_task(self._work(client, queue, emit))

        with quiet_clients():
            yield from stream(produce)

    async def _work(self, client: "openai.AsyncOpenAI", queue: Iterator[CorrectionItem], emit: Callable) -> None:
        for item in queue:
            try:
                content = await self._ask(client, item)
            except GiveUpError as given_up:
                emit(CorrectionResult(item.id, (), given_up.code))
                continue
            candidates = parse_answer(content, self._candidates)
            error = None if candidates else "unparsable" if content.strip() else "empty_answer"
            emit(CorrectionResult(item.id, candidates, error))

    async def _ask(self, client: "openai.AsyncOpenAI", item: CorrectionItem) -> str:
        """The text of the server's answer to one item, after as many attempts as it takes and are allowed.

        Raises:
            GiveUpError: If there is none.
        """
        import tenacity

        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_transient),
            stop=tenacity.stop_after_attempt(self._max_attempts),
            wait=self._wait,
            reraise=True,
        )
        try:
            content = await attempts(self._request, client, self._prompt.render(item, self._candidates))
        except failures() as error:
            self._note_failure(error)
            raise GiveUpError(code_of(error)) from None
        self._given_up_in_a_row = 0
        return content

    async def _request(self, client: "openai.AsyncOpenAI", prompt: str) -> str:
        """One attempt; a structured request that is refused is repeated as a plain one within it."""
        import openai

        messages = [{"role": "user", "content": prompt}]
        if not self._structured:
            return await self._send(client, messages=messages)
        try:
            return await self._send(client, messages=messages, response_format=response_format(self._candidates))
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            content = await self._send(client, messages=messages)
        self._structured = False
        return content

    async def _send(self, client: "openai.AsyncOpenAI", **request: Any) -> str:
        """One HTTP request; counts it, and the tokens that the server says it took."""
        loop = asyncio.get_running_loop()
        while (pause := self._not_before - loop.time()) > 0:
            await asyncio.sleep(pause)
        if self._max_requests is not None and self.usage.requests >= self._max_requests:
            self._stop("budget", "The budget correction_max_requests is spent")
        if self._stopped:
            raise GiveUpError(self._stopped)

        self.usage.requests += 1
        answer = await complete(client, self._timeout, model=self._model, **request)
        prompt_tokens, completion_tokens = tokens_of(answer)
        self.usage.prompt_tokens += prompt_tokens
        self.usage.completion_tokens += completion_tokens
        content = answer.choices[0].message.content
        return without_key(content) if isinstance(content, str) else ""

    def _wait(self, state: Any) -> float:
        """Seconds before the next attempt: backoff with jitter, or Retry-After if that is longer."""
        import tenacity

        exponential = tenacity.wait_exponential(multiplier=self._backoff, max=32 * self._backoff)
        backoff = (exponential + tenacity.wait_random(0, self._backoff))(state)
        asked = retry_after(state.outcome.exception())
        if asked:
            self._not_before = max(self._not_before, asyncio.get_running_loop().time() + asked)
        return max(backoff, asked)

    def _note_failure(self, error: Exception) -> None:
        """Counts a row that was given up; ends the requests when the server refuses us or seems to be down."""
        self._given_up_in_a_row = self._given_up_in_a_row + 1 if is_transient(error) else 0
        if is_refusal(error):
            advice = "check OPENAI_API_KEY, correction_model and correction_base_url"
            self._stop(code_of(error), f"The corrector's server refuses the requests: {advice}")
        elif self._given_up_in_a_row >= max(UNREACHABLE_AFTER, 3 * self._concurrency):
            self._stop(
                "unreachable", f"{self._given_up_in_a_row} rows failed one after another at the corrector's server"
            )

    def _stop(self, code: str, message: str) -> None:
        if self._stopped is None:
            logger.warning("%s (%s). The rest of this round's rows keep their ground truth.", message, code)
            self._stopped = code
