# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The terminal of a run: ClinKD's lines, bars, warnings and errors; all else goes to ``clinkd.log`` in ``output_dir``.

With ``LLAMAFACTORY_VERBOSITY=debug`` all goes to the terminal and there is no log. LLaMA Board's log is not touched.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from transformers import TrainerCallback

from ..utils.console import Show, console


PACKAGE = __name__.partition(".")[0]


@contextmanager
def terminal_of_run(training: Any) -> Iterator[None]:
    """Inside, what libraries print and log goes to the log of this rank, except warnings and standard error.

    Every line is on the disk at once. A later attempt of the same run appends to the log.
    """
    if os.getenv("LLAMAFACTORY_VERBOSITY", "").upper() == "DEBUG":
        yield
        return
    rank, folder = training.process_index, Path(training.output_dir)
    path = folder / ("clinkd.log" if rank == 0 else f"clinkd.rank{rank}.log")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        log = stack.enter_context(open(path, "a", encoding="utf-8", errors="replace", buffering=1))
        out, err = _LogStream(log, sys.stdout), _LogStream(log, sys.stderr, is_shown=True)
        handler = _TerminalHandler(is_main=rank == 0)
        console.file = out.terminal
        stack.callback(setattr, console, "file", None)  # again the standard output of the moment
        loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
        for logger in (logging.root, *loggers):
            for each in logger.handlers:
                stream = getattr(each, "stream", None)
                if type(each) is logging.StreamHandler and stream in (out.terminal, err.terminal):
                    each.setStream(out)
                    stack.callback(each.setStream, stream)
            if logger is logging.root or not logger.propagate:  # a record meets the handlers of one of these
                logger.addHandler(handler)
                stack.callback(logger.removeHandler, handler)
        stack.callback(err.end)
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        if rank == 0:
            console.print(f"ClinKD's log of this run: {path}", markup=False, highlight=False, soft_wrap=True)
        yield


class _LogStream:
    """Standard output or error: writes to the log, and to the terminal too if ``is_shown``; drops progress bars."""

    def __init__(self, log: TextIO, terminal: TextIO, *, is_shown: bool = False) -> None:
        self.terminal = terminal
        self._log, self._is_shown, self._in_line, self._partial = log, is_shown, False, ""

    def write(self, text: str) -> int:
        is_bar = text.startswith(("\r", "\x1b["))
        if not is_bar and (self._in_line or text.strip()):  # an empty line ends a bar
            self._in_line = not text.endswith("\n")
            if not self._log.closed:
                self._log.write(text)
            if self._log.closed or (self._is_shown and not (self.terminal.isatty() and console.is_terminal)):
                self.terminal.write(text)
            elif self._is_shown:  # above the bars, in whole lines
                *lines, self._partial = (self._partial + text).split("\n")
                for line in lines:
                    console.print(line, markup=False, highlight=False, soft_wrap=True)
        return len(text)

    def end(self) -> None:
        """Prints the beginning of a line that has no end."""
        self.terminal.write(self._partial)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


class _TerminalHandler(logging.Handler):
    """Prints warnings, errors and, on the main rank, the messages of this package; the same line only once."""

    def __init__(self, *, is_main: bool) -> None:
        super().__init__()
        self._is_main, self._printed = is_main, set()

    def emit(self, record: logging.LogRecord) -> None:
        """Warnings of other libraries are named after them."""
        is_ours, message = record.name.partition(".")[0] == PACKAGE, self.format(record)
        if record.levelno >= logging.WARNING:
            message = f"{record.levelname.capitalize()}{'' if is_ours else f' ({record.name})'}: {message}"
        elif not is_ours or not self._is_main or record.levelno < logging.INFO:
            return
        if message in self._printed:
            return
        self._printed.add(message)
        console.print(message, markup=False, highlight=False, soft_wrap=True)


class TrainingBar(TrainerCallback):
    """Shows the steps of a phase's training, with the last loss."""

    def __init__(self, show: Show, phase: str) -> None:
        self._show, self._phase, self._title, self._note = show, phase, phase, ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Names the phase and its rows."""
        rows = getattr(kwargs.get("train_dataloader"), "dataset", ())
        self._title = f"{self._phase}, steps on {len(rows):,} rows"
        self._show(self._title, state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keeps the loss for the next step."""
        if "loss" in (logs or {}):
            self._note = f"loss {float(logs['loss']):.3f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advances the bar."""
        self._show(self._title, state.global_step, state.max_steps, self._note)
