# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a corrector is: something that rewords ground-truth answers. It is asked for candidates and never trusted."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol


CorrectorKind = Literal["offline", "openai"]
CORRECTORS: tuple[CorrectorKind, ...] = ("offline", "openai")


class CorrectionItem(NamedTuple):
    """One row that needs correction. It has no image, so none can be sent."""

    id: str
    question: str
    annotation: str
    response: str


class CorrectionResult(NamedTuple):
    """What a corrector has to say about one item."""

    id: str
    candidates: tuple[str, ...]
    """Rewordings of the ground truth, best first, not validated."""
    error: str | None = None
    """Why there are none, as a short code such as ``http_500``; never a text of the server."""


@dataclass
class Usage:
    """What a round has cost so far."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts as a plain dictionary."""
        return asdict(self)

    def cost(self, prices: Sequence[float]) -> float:
        """What the tokens cost, at ``prices`` of a million prompt and of a million completion tokens."""
        return (self.prompt_tokens * prices[0] + self.completion_tokens * prices[1]) / 1e6


class Corrector(Protocol):
    """Rewords ground-truth answers."""

    name: str
    """Kind, model and prompt: results are comparable only under the same name."""
    prompt_text: str
    """The fixed text of the prompt, which no candidate may repeat; empty without a prompt."""
    usage: Usage
    """Counted from the last :meth:`start_round`."""

    def start_round(self, usage: Usage) -> None:
        """Begins a round, whose budget counts from ``usage``: zero, or what an interrupted run already spent."""

    def correct(self, items: Iterable[CorrectionItem]) -> Iterator[list[CorrectionResult]]:
        """Yields the results in groups, as they come in and in any order: exactly one result an item.

        A group may be empty, so that a reader who waits for a server can stop.
        """


def make_corrector(
    kind: CorrectorKind,
    *,
    model: str = "gpt-4o",
    base_url: str | None = None,
    candidates: int = 3,
    concurrency: int = 16,
    max_requests: int | None = None,
    allow_remote: bool = False,
    prompt_path: str | Path | None = None,
) -> Corrector:
    """Builds a corrector from plain values (the YAML keys ``corrector`` and ``correction_*``).

    Args:
        kind: ``offline`` (rules, no network; only ``candidates`` matters), or ``openai`` (any compatible server).
        model: The model's name on the server.
        base_url: The server; default ``OPENAI_BASE_URL``, else OpenAI's own.
        candidates: Rewordings for each row, >= 1.
        concurrency: Requests in flight at once, >= 1.
        max_requests: Budget of requests a round, retries included; rows beyond it keep their ground truth.
        allow_remote: Whether texts may go to another machine.
        prompt_path: A template in place of the built-in ``prompts/correction.txt``.

    Raises:
        ValueError: If a value is out of range or unknown, a remote server is not allowed, or its key is missing.
        ImportError: If the openai client is not installed; the message gives the command.
    """
    if kind == "offline":
        from .offline import OfflineCorrector

        return OfflineCorrector(candidates=candidates)
    if kind == "openai":
        from .client import OpenAICorrector

        return OpenAICorrector(
            model=model,
            base_url=base_url,
            candidates=candidates,
            concurrency=concurrency,
            max_requests=max_requests,
            allow_remote=allow_remote,
            prompt_path=prompt_path,
        )
    raise ValueError(f"Unknown corrector {kind!r}: expected one of {', '.join(CORRECTORS)}.")
