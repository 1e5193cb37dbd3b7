# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The interface of a corrector, which rewords ground truths, and the prompt of those that are language models."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any, NamedTuple, Protocol


DEFAULT_PROMPT = Path(__file__).parent / "prompts" / "correction.txt"
REQUIRED = frozenset({"annotation", "count"})
ALLOWED = REQUIRED | {"question", "response"}


class CorrectionItem(NamedTuple):
    """One row that needs correction. It has no image, so none can be sent."""

    id: str
    question: str
    annotation: str
    response: str


class CorrectionResult(NamedTuple):
    """A corrector's result for one item."""

    id: str
    candidates: tuple[str, ...]  # rewordings of the ground truth, best first, not validated
    error: str | None = None  # why there are none, as a short code such as ``http_500``; never text from the server


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

    name: str  # kind, model and prompt: results are comparable only under the same name
    prompt_text: str  # the fixed text of the prompt, which no candidate may repeat; empty without a prompt
    usage: Usage  # counted from the last :meth:`start_round`

    def start_round(self, usage: Usage) -> None:
        """Begins a round, whose budget counts from ``usage``: zero, or what an interrupted run already spent."""

    def correct(self, items: Iterable[CorrectionItem]) -> Iterator[list[CorrectionResult]]:
        """Yields exactly one result for each item, in any order, in groups as they come in.

        A group may be empty, so that the caller can stop while a server is slow.
        """


class PromptTemplate:
    """A prompt with ``$question``, ``$annotation``, ``$response`` and ``$count``; ``$$`` is a dollar sign.

    It is read from a UTF-8 file, by default the package's ``prompts/correction.txt``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a placeholder is unknown, malformed, or a required one is missing.
    """

    def __init__(self, path: str | Path | None = None):
        source = Path(path) if path is not None else DEFAULT_PROMPT
        if not source.is_file():
            raise FileNotFoundError(f"correction_prompt: there is no file {source}.")
        self._template = Template(source.read_text(encoding="utf-8"))
        names = set(self._template.get_identifiers()) if self._template.is_valid() else None
        if names is None or not REQUIRED <= names <= ALLOWED:
            problem = "a malformed placeholder" if names is None else f"the placeholders {sorted(names)}"
            raise ValueError(
                f"correction_prompt: {source} has {problem}; expected $annotation and $count, and at most $question "
                "and $response beside them. Write $$ for a dollar sign."
            )

    @property
    def fixed_text(self) -> str:
        """The template without placeholders, which no answer may repeat."""
        return self._template.safe_substitute(dict.fromkeys(ALLOWED, "\n"))

    def render(self, item: CorrectionItem, count: int) -> str:
        """The prompt for one item, with a request for ``count`` candidates."""
        return self._template.substitute(item._asdict(), count=count)


def response_format(count: int) -> dict[str, Any]:
    """The JSON schema of an answer, for OpenAI's ``response_format``."""
    schema = {
        "type": "object",
        "properties": {"candidates": {"type": "array", "items": {"type": "string"}}},
        "required": ["candidates"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": f"{count}_candidates", "strict": True, "schema": schema}}
