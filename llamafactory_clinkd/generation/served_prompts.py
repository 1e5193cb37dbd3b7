# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Whether a server reads a row's prompt as the run does: chat template, system prompt, thinking and pixel limits.

The server makes the prompt from messages, by a chat template of its own. vLLM returns the prompt's ids; of other
servers the number of its tokens is compared, which a line break or a system prompt changes too.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..rope.chat_template import collapsed, first_difference
from .served_model import ServedModel, ServerError


logger = logging.getLogger(__name__)


@dataclass
class Prompts:
    """The run's own prompts.

    ``ids`` maps a row number to ids, with a token for each part of an image; ``image_id`` is the id of these tokens.
    """

    ids: Callable[[int], list[int]]
    tokenizer: Any
    image_id: int | None = None

    def compare(self, served: ServedModel, found: Mapping[int, list[int] | int | None]) -> bool:
        """Whether the server reports the prompts of these rows, and they are the run's.

        ``found`` maps row numbers to the server's ids, their number or None. If the served model may have another
        tokenizer or image processor than the run (``same_processor``), what that explains is only logged.

        Raises:
            ServerError: If the server reads a row otherwise.
        """
        for number, theirs in found.items():
            ours = self.ids(number)
            if theirs is None:
                logger.warning(
                    "The server does not report the tokens of its prompts: whether it has the chat template, the "
                    "system prompt and the pixel limits of this run is not known."
                )
                return False
            if theirs in (ours, len(ours)):
                continue
            difference = self._describe(ours, theirs)
            if served.same_processor or self._same_text_otherwise(served, ours, theirs):
                raise ServerError(
                    f"The server reads a prompt otherwise than this run: {difference}. Serve the model with the chat "
                    "template of the recipe's `template` (`clinkd serve FOLDER --template NAME`; vLLM takes a file as "
                    "`--chat-template`), with its system prompt and pixel limits (`--mm-processor-kwargs`)."
                )
            logger.warning(
                "The server reads a prompt otherwise than this run: %s. Its answers are used, as it may have another "
                "tokenizer or image processor: the recipe names no `ref_model`.", difference,
            )  # fmt: skip
            return False
        return True

    def _describe(self, ours: list[int], theirs: list[int] | int) -> str:
        if isinstance(theirs, int):
            return f"{len(ours)} tokens here, {theirs} there"
        one, other = collapsed(ours, self.image_id), collapsed(theirs, self.image_id)
        if one == other:
            images, there = (sum(i == self.image_id for i in ids) for ids in (ours, theirs))
            return f"its images have {images} tokens here, {there} there"
        before, here, there = first_difference(self.tokenizer, one, other)
        return f"after {before!r} follows {here!r} here, {there!r} there"

    def _same_text_otherwise(self, served: ServedModel, ours: list[int], theirs: list[int] | int) -> bool:
        """Whether the texts differ although both tokenizers read the run's ids alike."""
        if isinstance(theirs, int) or collapsed(ours, self.image_id) == collapsed(theirs, self.image_id):
            return False
        return served.text_of(ours) == self.tokenizer.decode(ours, skip_special_tokens=False)
