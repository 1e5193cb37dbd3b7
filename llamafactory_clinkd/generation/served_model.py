# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""An OpenAI-compatible server that answers in place of a local model, and how its model is recognised.

The identity of a served model is the distribution of the first token of a few fixed rows. It is compared with the
phase's own model, or with what the same server answered before, at the start and before any answer is kept. With the
first token comes what the server made of the prompt (:mod:`.served_prompts`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..utils.chat_client import MAX_BODY, ChatServer, RequestError


FIXED_ROWS = 4
TOP = 5  # log-probabilities compared for each fixed row
TOKEN_SERVERS = ("vllm", "sglang")  # take what the OpenAI API does not have
LIMITS = {"float32": 1e-4, "16 bits": 0.1, "earlier answers": 0.05}  # mean absolute differences in nats


class ServerError(RuntimeError):
    """The server is gone, refuses the requests or serves another model. What is on disk is valid."""


@dataclass
class ServedModel:
    """A model behind a server; ``name`` and ``kind`` (``vllm``, ``sglang``, ...) come from its ``/models``."""

    url: str
    name: str | None = None
    concurrency: int = 16
    timeout: float = 600.0  # seconds for a whole request
    max_attempts: int = 6
    backoff: float = 1.0
    key: str = "generation_model"  # the recipe's, for ``name``
    max_body: int = MAX_BODY
    same_processor: bool = True  # whether its model must read a row as the run's tokenizer and image processor do
    kind: str = field(default="", init=False)
    template_options: dict[str, Any] = field(default_factory=dict, init=False)  # ``chat_template_kwargs`` of a request

    def __post_init__(self) -> None:
        limits = {"max_attempts": self.max_attempts, "backoff": self.backoff, "max_body": self.max_body}
        self.server = ChatServer(self.url, timeout=self.timeout, **limits)

    def find_model(self) -> None:
        """Reads the served models; raises ServerError if the server does not answer or the name is not clear."""

        async def models(client: Any, _: Any) -> Any:
            return await self.server.retried(lambda: self.server.call(client.models.list))

        found = {model.id: getattr(model, "owned_by", "") or "" for model in self.one(models).data}
        if self.name is None and len(found) != 1:
            raise ServerError(f"{self.url} serves {sorted(found)}: name one as `{self.key}`.")
        self.name = self.name or next(iter(found))
        if self.name not in found:
            raise ServerError(f"{self.url} serves {sorted(found)}, not `{self.key}: {self.name}`.")
        self.kind = found[self.name].lower()

    async def complete(
        self, client: Any, messages: list[dict[str, Any]], read: Callable[[Any], Any], **options: Any
    ) -> Any:
        """``read(completion)`` after retries, also of completions for which it raises a transient RequestError."""
        extra = options.pop("extra_body", {})
        if self.template_options and self.kind in TOKEN_SERVERS:
            extra = extra | {"chat_template_kwargs": self.template_options}
        body = {"model": self.name, "messages": messages, **options} | ({"extra_body": extra} if extra else {})

        async def request() -> Any:
            return _read(await self.server.complete(client, **body), read)

        return await self.server.retried(request)

    async def post(self, client: Any, path: str, read: Callable[[Any], Any], **body: Any) -> Any:
        """The same of a request to ``path`` beside the ``/v1`` of the URL; ``read`` gets the JSON of the response."""
        address = self.url.rstrip("/").removesuffix("/v1") + path

        async def request() -> Any:
            body_of_model = {"model": self.name, **body}
            return _read(
                await self.server.call(partial(client.post, address, cast_to=object), body=body_of_model), read
            )

        return await self.server.retried(request)

    def first_token(self, messages: list[dict[str, Any]]) -> dict[str, float]:
        """Token -> natural-log probability of the likeliest first tokens; an answer's text -> 0 without them.

        A token is ``token_id:N`` in vLLM, else its text. Raises ServerError.
        """
        return self.first_token_and_prompt(messages)[0]

    def first_token_and_prompt(
        self, messages: list[dict[str, Any]]
    ) -> tuple[dict[str, float], list[int] | int | None]:
        """:meth:`first_token`, and the ids of the server's prompt, else their number, None if neither is reported."""
        extra = {"return_tokens_as_token_ids": True, "return_token_ids": True} if self.kind == "vllm" else {}

        def read(completion: Any) -> tuple[dict[str, float], list[int] | int | None]:
            choice, prompt = completion.choices[0], prompt_of(completion)
            content = getattr(getattr(choice, "logprobs", None), "content", None)
            if not content:
                return {f"text {choice.message.content}": 0.0}, prompt
            return {each.token: each.logprob for each in content[0].top_logprobs}, prompt

        async def ask(client: Any, _: Any) -> Any:
            options = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": TOP, "extra_body": extra}
            try:
                return await self.complete(client, messages, read, **options)
            except RequestError as error:
                if error.code not in ("http_400", "http_422"):
                    raise
            return await self.complete(client, messages, read, max_tokens=16, temperature=0)

        return self.one(ask)

    def text_of(self, ids: Sequence[int]) -> str | None:
        """What the server's tokenizer decodes ids to; None if it has no ``/detokenize``. Raises ServerError."""

        async def decode(client: Any, _: Any) -> str | None:
            try:
                return await self.post(client, "/detokenize", lambda reply: reply["prompt"], tokens=list(ids))
            except RequestError as error:
                if error.transient:
                    raise
                return None

        return self.one(decode)

    def one(self, work: Any) -> Any:
        """The result of one call of ``work(client, None)``; raises ServerError."""

        async def guarded(client: Any, item: Any) -> Any:
            try:
                return await work(client, item)
            except RequestError as error:
                return error

        [result] = [result for group in self.server.stream([None], guarded, 1) for result in group]
        if isinstance(result, RequestError):
            raise ServerError(f"{self.url} does not answer ({result.code}). Start it; the same command continues.")
        return result


def prompt_of(completion: Any) -> list[int] | int | None:
    """The ids of a completion's prompt, else their number, None if neither is reported."""
    ids, usage = getattr(completion, "prompt_token_ids", None), getattr(completion, "usage", None)
    count = getattr(usage, "prompt_tokens", None)
    return list(ids) if ids else count if isinstance(count, int) and count > 0 else None


def _read(reply: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(reply)
    except (AttributeError, LookupError, TypeError):  # JSON or text, but not what was requested
        raise RequestError("bad_body", transient=True) from None


def difference(found: Mapping[str, float], expected: Mapping[str, float]) -> float:
    """Mean absolute difference of log-probabilities; infinity if half of the found tokens are not expected."""
    common = [abs(value - expected[token]) for token, value in found.items() if token in expected]
    return sum(common) / len(common) if 2 * len(common) > len(found) else math.inf


def require_same(found: Sequence[Mapping[str, float]], expected: Sequence[Mapping[str, float]], what: str) -> None:
    """Raises ServerError if the first tokens of the fixed rows are not those of ``what``, a key of LIMITS."""
    worst = max(difference(a, b) for a, b in zip(found, expected, strict=True))
    if worst <= LIMITS[what]:
        return
    if any(token.startswith("text ") for row in found for token in row):
        raise ServerError(
            "The server returns no log-probabilities, or other answers than before, so that the model that it serves "
            "cannot be compared. vLLM and SGLang return them."
        )
    raise ServerError(
        f"The server does not serve the model of this phase: on fixed rows the log-probabilities of the first "
        f"token differ by {worst:.3g} on average, allowed are {LIMITS[what]} ({what}). Serve that model with its "
        "own chat template, positions and pixel limits (`clinkd serve`), in float32 if it was trained in float32."
    )
