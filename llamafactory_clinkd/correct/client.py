# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Correction by an OpenAI-compatible server: requests in parallel, retries, a budget, and no text in any log.

``docs/correction.md`` lists what follows each failure; a failed row keeps its ground truth.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.endpoint import redact_key, require_key
from ..utils.io import content_hash
from .corrector import CorrectionItem, CorrectionResult, PromptTemplate, Usage, response_format
from .privacy import require_allowed, resolve_base_url
from .server_answers import AnswerError, message_text, parse_answer


try:
    from ..utils.chat_client import ChatServer, RequestError
except ImportError as error:
    message = "The openai corrector needs its client: pip install 'llamafactory-clinkd[openai]'."
    raise ImportError(message) from error

logger = logging.getLogger(__name__)

UNREACHABLE_AFTER = 20  # failed rows in a row


@dataclass(kw_only=True)
class OpenAICorrector:
    """Requests rewordings through the official client; :func:`.make_corrector` lists the errors."""

    base_url: str | None = None  # by default `OPENAI_BASE_URL`, else OpenAI's own
    model: str = "gpt-4o"  # its name on the server
    allow_remote: bool = False  # whether texts may go to another machine
    allow_http: bool = False  # by plain http
    candidates: int = 3
    concurrency: int = 16  # requests in flight at once
    max_requests: int | None = None  # of a round, retries included; rows beyond it keep their ground truth
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
        require_allowed(self._url, self.allow_remote, allow_http=self.allow_http)
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
        self._server = ChatServer(
            self._url,
            timeout=self.timeout,
            max_attempts=self.max_attempts,
            backoff=self.backoff,
            before=self._count_request,
        )

    def correct(self, items: Iterable[CorrectionItem]) -> Iterator[list[CorrectionResult]]:
        """See :meth:`.Corrector.correct`. Closing the iterator cancels the requests in flight."""
        return self._server.stream(items, self._correct_one, self.concurrency)

    async def _correct_one(self, client: Any, item: CorrectionItem) -> CorrectionResult:
        prompt = self._prompt.render(item, self.candidates)
        try:
            content = await self._server.retried(lambda: self._request(client, prompt))
            result = CorrectionResult(item.id, parse_answer(content, self.candidates))
        except RequestError as error:
            self._count_failure(error)
            return CorrectionResult(item.id, (), error.code)
        except AnswerError as error:
            result = CorrectionResult(item.id, (), str(error))
        self._failures_in_a_row = 0
        return result

    async def _request(self, client: Any, prompt: str) -> str:
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

    async def _send(self, client: Any, prompt: str, **options: Any) -> str:
        """Sends one request and counts its tokens; returns the text of the first choice.

        Raises:
            RequestError: If the request failed, or no more are allowed.
            AnswerError: If the answer was cut off or refused.
        """
        messages = [{"role": "user", "content": prompt}]
        completion = await self._server.complete(client, model=self.model, messages=messages, **options)
        usage = getattr(completion, "usage", None)
        for key in ("prompt_tokens", "completion_tokens"):
            count = getattr(usage, key, None)
            setattr(self.usage, key, getattr(self.usage, key) + (count if isinstance(count, int) else 0))
        try:
            return redact_key(message_text(completion.choices[0]))
        except (AttributeError, LookupError, TypeError):  # JSON or text, but not a completion with a message
            raise RequestError("bad_body", transient=True) from None

    def _count_request(self) -> None:
        """Counts a request, if any is still allowed; raises RequestError if not."""
        if self.max_requests is not None and self.usage.requests >= self.max_requests:
            self._stop("budget", "The budget correction_max_requests is spent")
        if self._stop_code:
            raise RequestError(self._stop_code)
        self.usage.requests += 1

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
