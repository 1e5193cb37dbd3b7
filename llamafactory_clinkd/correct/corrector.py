# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The interface of a corrector: it rewords ground-truth answers. Its candidates are validated before use."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol


class CorrectionItem(NamedTuple):
    """One row that needs correction. It has no image, so none can be sent."""

    id: str
    question: str
    annotation: str
    response: str


class CorrectionResult(NamedTuple):
    """A corrector's result for one item."""

    id: str
    candidates: tuple[str, ...]
    """Rewordings of the ground truth, best first, not validated."""
    error: str | None = None
    """Why there are none, as a short code such as ``http_500``; never text from the server."""


@dataclass
class Usage:
    """Requests and tokens of a round so far."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts as a plain dictionary."""
        return asdict(self)

    def cost(self, prices: Sequence[float]) -> float:
        """Price of the tokens at ``prices`` of a million prompt and of a million completion tokens."""
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
        """Yields exactly one result for each item, in any order, in groups as they come in.

        A group may be empty, so that the caller can stop while a server is slow.
        """
