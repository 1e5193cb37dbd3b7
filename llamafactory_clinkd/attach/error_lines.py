# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Errors that this package raises for the user end ``llamafactory-cli`` with their message, without a traceback."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any


PACKAGE = Path(__file__).parents[1]


def explain_missing_gpu(error: ValueError) -> None:
    """Raises a ValueError with the way out if ``error`` is the refusal of bf16 by transformers (5.0 to 5.8)."""
    if "support bf16/gpu" in str(error):
        raise ValueError(
            "`bf16: true` needs a GPU that computes in bf16, and torch finds none. Remove the key to train on the CPU "
            "in fp32, which suits small models only. With a GPU, install a CUDA build of torch (`clinkd doctor`)."
        ) from error


def print_error(
    stock: Callable[..., Any], kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """In place of ``sys.excepthook``: the traceback's last line and the notes, if the error is meant for the user.

    It is if a ``raise`` statement of this package raised it. All others, and all with ``CLINKD_TRACEBACK=1`` in the
    environment, go to ``stock``.
    """
    frames = traceback.extract_tb(trace)
    is_ours = frames and PACKAGE in Path(frames[-1].filename).parents and (frames[-1].line or "").startswith("raise ")
    if is_ours and isinstance(error, Exception) and os.environ.get("CLINKD_TRACEBACK") != "1":
        print("".join(traceback.format_exception_only(kind, error)).rstrip(), file=sys.stderr)
    else:
        stock(kind, error, trace)
