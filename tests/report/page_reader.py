# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reads a page strictly: every element closed in order, ids unique, and lists what it refers to."""

import re
from html.parser import HTMLParser


VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}


def assert_pdf(content: bytes) -> None:
    """A PDF whose table names the places of its objects, in the colours of the light page."""
    assert content.startswith(b"%PDF") and content.rstrip().endswith(b"%%EOF")
    start = int(re.search(rb"startxref\s+(\d+)", content)[1])
    places = re.findall(rb"(\d{10}) 00000 n", content[start:])
    assert places and all(re.match(rb"\d+ 0 obj", content[int(place) :]) for place in places)
    assert not re.search(rb"0\.0470588\d*\s+0\.0588235\d*\s", content), "a placeholder's colour"


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        elements: (tag, attributes) of every element in order.
        ids: Every id.
        faults: Elements closed out of order, or left open, or ids used twice.
        cards: For each example card, its (tag, attributes) in order.
        text: All text outside of style and script.
    """

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source, self.elements, self.ids, self.faults = source, [], [], []
        self.cards: list[list[tuple[str, dict]]] = []
        self.text = ""
        self._open: list[str] = []
        self._card_depth: int | None = None
        self.feed(source)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self._open]
        self.faults += [f"id {name} occurs twice" for name in set(self.ids) if self.ids.count(name) > 1]

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag == "article" and found.get("class") == "card":
            self.cards.append([])
            self._card_depth = len(self._open)
        if self._card_depth is not None:
            self.cards[-1].append((tag, found))
        if "id" in found:
            self.ids.append(found["id"])

    def handle_endtag(self, tag):
        if not self._open or self._open[-1] != tag:
            self.faults.append(f"</{tag}> at {self.getpos()} closes {self._open[-1:]}")
        if tag in self._open:
            del self._open[len(self._open) - 1 - self._open[::-1].index(tag) :]
        if self._card_depth is not None and len(self._open) <= self._card_depth:
            self._card_depth = None

    def handle_data(self, data):
        if not {"style", "script"} & set(self._open):
            self.text += data

    def outward(self) -> list[str]:
        """Everything in the page that a browser would fetch from elsewhere."""
        names = ("src", "href", "srcset", "data", "action", "poster", "xlink:href")
        found = [value for _, attrs in self.elements for name in names if (value := attrs.get(name))]
        found += re.findall(r"url\(\s*['\"]?([^)'\"]*)", self.source) + re.findall(r"@import[^;]*", self.source)
        return [value for value in found if not value.startswith(("#", "data:"))]
