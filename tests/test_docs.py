# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The pages of docs/ agree with the code, and their links lead somewhere."""

import re
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
sys.path.append(str(ROOT / "docs"))


def test_the_page_of_keys_is_that_of_the_dataclass():
    from write_configuration import PAGE, configuration_page

    assert PAGE.read_text(encoding="utf-8") == configuration_page(), "run python docs/write_configuration.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_of_the_package_and_the_tests_exist(page):
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"`((?:llamafactory_clinkd|tests|benchmarks|examples|docs)/[\w./-]+)`", text)
    assert not [name for name in names if not (ROOT / name).exists()]
