# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Several pages that watch one run: stock LLaMA Board gives all of them one ``Runner``, emptied by the first to end.

Stock's ``Runner.monitor`` of each page reads ``self.trainer`` until the process ends, then sets it to None; any other
page that still watches dies there with an ``AttributeError`` and never shows the end.
"""

import copy
import functools
import subprocess
import threading
from typing import Any


def view_of_page(runner: Any) -> Any:
    """The runner as one page sees it while it watches the present run.

    The view keeps its own ``trainer`` and ``running_data``, so another page's end takes nothing away. Whether the run
    was aborted is read where every page and the Abort button see it. The page that ends first empties the runner, as
    stock's does; a run started since is left alone.

    Args:
        runner: Stock's ``Runner``, shared by all pages, which watches a process (``runner.trainer``).

    Returns:
        An instance of a subclass of the runner's class. Without a process, the runner itself.
    """
    process = runner.trainer
    if process is None:
        return runner
    one_reader_at_a_time(process)
    runner.running = True
    if not hasattr(process, "aborted"):  # the first page to watch it: an Abort pressed before was of no run
        process.aborted = runner.aborted = False

    class PageView(type(runner)):
        """See :func:`view_of_page`."""

        @property
        def aborted(self) -> bool:
            if runner.trainer is process:
                return runner.aborted
            return process.aborted

        @aborted.setter
        def aborted(self, value: bool) -> None:
            """Stock's monitor starts with False: a page that comes later must not undo an abort under way."""

        def _finalize(self, lang: str, finish_info: str) -> None:
            if runner.trainer is process:
                process.aborted = runner.aborted
                runner.trainer, runner.running_data, runner.aborted, runner.running = None, None, False, False
            super()._finalize(lang, finish_info)

    view = copy.copy(runner)
    view.__dict__.pop("aborted")
    view.__class__ = PageView
    return view


def one_reader_at_a_time(process: subprocess.Popen) -> None:
    """Lets several pages that watch one run wait for it in turn.

    Stock's monitor of each page calls ``communicate`` in a thread of its own; two at once end in EBADF, and the page
    that lost never says that the run has ended.
    """
    if "communicate" in vars(process):
        return
    stock, lock = process.communicate, threading.Lock()

    @functools.wraps(stock)
    def communicate(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        with lock:
            return stock(*args, **kwargs)

    process.communicate = communicate
