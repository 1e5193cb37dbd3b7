# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The reasoning that a model writes before its answer, in the tags of the known families of models."""

import re
from typing import NamedTuple


_THOUGHT = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|seed:think)"
_REASONING = re.compile(
    rf"(?P<open><{_THOUGHT}\b[^<>]*>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>"
    r"|<\|channel\|>(?!final\b)\w+)"
    rf"|(?P<close></{_THOUGHT}\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>|<\|channel\|>final)",
    re.IGNORECASE,
)


class Outside(NamedTuple):
    """The text outside all reasoning blocks."""

    text: str
    has_reasoning: bool
    is_open: bool  # whether a block's end is missing


def drop_reasoning(content: str) -> str:
    """The text outside all reasoning blocks; see :func:`outside_reasoning`."""
    return outside_reasoning(content).text


def outside_reasoning(content: str) -> Outside:
    """Splits off the reasoning blocks, which may be nested.

    Without its end, a block reaches to the end of the text; without its start, from the beginning of the text.
    """
    kept, depth, position = [], 0, 0
    for tag in _REASONING.finditer(content):
        if tag["open"]:
            if depth == 0:
                kept.append(content[position : tag.start()])
            depth += 1
        elif depth <= 1:
            kept, depth = kept if depth else [], 0
        else:
            depth -= 1
        position = tag.end()
    return Outside("".join(kept) + ("" if depth else content[position:]), position > 0, depth > 0)
