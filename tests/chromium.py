# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Debian's Chromium, driven by Playwright, and pictures of pages for a person to look at."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tenacity


CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PICTURE_HEIGHT = 4000
"""Pixels: Chromium repeats itself past 16384, and may refuse a bitmap of some 100 MB where memory is short."""


@contextmanager
def chromium_or_skip() -> Iterator[Any]:
    """An open browser; what is missing is said in the skip."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


def take_pictures(page: Any, folder: Path, name: str) -> list[Path]:
    """Pictures of a whole page from top to bottom, ``name-1.png`` and so on.

    A busy machine's Chromium now and then has no frame to hand out ("Unable to capture screenshot"): it is asked twice
    more before that is an error.
    """
    capture = tenacity.retry(
        retry=tenacity.retry_if_exception_message(match=".*Unable to capture screenshot"),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_fixed(1),
        reraise=True,
    )(page.screenshot)
    paths: list[Path] = []
    while True:
        width, height = page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        top = len(paths) * PICTURE_HEIGHT
        if top >= height:
            return paths
        paths.append(folder / f"{name}-{len(paths) + 1}.png")
        clip = {"x": 0, "y": top, "width": width, "height": min(PICTURE_HEIGHT, height - top)}
        capture(path=paths[-1], full_page=True, clip=clip)
