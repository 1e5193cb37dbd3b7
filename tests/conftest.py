# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import gc

import pytest
from chromium import chromium_or_skip


LONGEST = (
    "tests/demo/test_run_demo.py",
    "tests/webui/test_run_browser.py",
    "tests/engines/test_engines.py",
    "tests/attach/test_attach.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What is long is slow, too: `-m slow` has all of it.

    The longest files come first, then the others with slow tests, so that the workers of `make test`, which take a
    file at a time, end together.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow") and not item.get_closest_marker("long")}
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")
    items.sort(key=lambda item: (not item.nodeid.startswith(LONGEST), item.path not in slow))


def pytest_collection_finish():
    """The objects of libraries and tests are not searched at each collection of garbage, half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_meteor():
    """One METEOR, which reads paraphrases for six seconds when it starts, scores the captions of all tests."""
    from llamafactory_clinkd.evaluate.java import kept_meteor

    with kept_meteor():
        yield


@pytest.fixture
def own_meteor(monkeypatch):
    """For tests of METEOR's start and end: as in a process where none runs."""
    from llamafactory_clinkd.evaluate import java

    monkeypatch.setattr(java, "_meteor", [])
    monkeypatch.setattr(java, "_meteor_users", 0)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """Tiny models with a vocabulary of 1,024 tokens, and data; shared and never written to."""
    from small_run import build_workspace

    return build_workspace(tmp_path_factory.mktemp("workspace"), own_vocabulary=True, meteor=False)


@pytest.fixture(scope="module")
def chromium():
    """Debian's Chromium, closed before the next file: a thread holds one Playwright, and no event loop beside it."""
    with chromium_or_skip() as browser:
        yield browser
