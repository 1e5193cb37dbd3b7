# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The prompt of a correction request, and the form of its answer."""

from pathlib import Path
from string import Template
from typing import Any

from .corrector import CorrectionItem


DEFAULT_PROMPT = Path(__file__).parent / "prompts" / "correction.txt"
REQUIRED = frozenset({"annotation", "count"})
ALLOWED = REQUIRED | {"question", "response"}


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
