# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Hooks of ``mkdocs build``: pages outside of docs/ join the site, and links to other files become their names.

In the repository every link leads to a file. The site has the pages below ``project/``, and no code or data files.
"""

import os
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File


DOCS = Path(__file__).parent
ROOT = DOCS.parent
OUTSIDE = (
    "CHANGELOG.md", "CONTRIBUTING.md", "examples/reproduce/README.md", "examples/table_a3/README.md",
    "patches/README.md",
)  # fmt: skip
REMOTE = re.compile(
    r"<(script|img|iframe|link rel=.?(stylesheet|icon|preconnect))\b[^>]*?(src|href)=.?https?://[^ >]*"
)
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files, config):
    """Adds the pages of the project's other folders."""
    for name in OUTSIDE:
        content = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, f"project/{name}", content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Points links at the site's pages; a link to a file that the site does not have becomes its text."""
    source = page.file.src_uri
    here = (ROOT / source.removeprefix("project/") if source.startswith("project/") else DOCS / source).parent

    def replace(match):
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = Path(os.path.normpath(here / target))
        name = path.relative_to(DOCS) if path.is_relative_to(DOCS) else Path("project", path.relative_to(ROOT))
        if files.get_file_from_path(name.as_posix()) is None:
            return text
        return f"[{text}]({os.path.relpath(name, Path(source).parent)}{anchor})"

    return LINK.sub(replace, markdown)


def on_post_page(output, page, config):
    """Ends the build if a page would load something from another host."""
    if found := REMOTE.search(output):
        raise PluginError(f"{page.file.src_uri} loads something from another host: {found[0]}")
    return output
