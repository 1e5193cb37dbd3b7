# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Valid rows, mutated: nothing crashes, nothing is lost, and nothing outside the data folder is opened."""

import copy
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafactory_clinkd.data.check import check
from llamafactory_clinkd.data.convert import convert
from llamafactory_clinkd.data.stats import statistics

from .samples import SOURCES, draw


PIECES = ["<image>", "<img>", "</img>", "<box>", "</box>", "<ref>", "<|im_end|>", "(1,2),(3,4)", "(0.1,0.2),(0.3,0.4)"]
PIECES += ["\ud800", "\0", "../../secret.png", "/etc/passwd", "", "\ufffc", "（１，２）", "<box_start>", "(9,9),(1,1)"]
PIECES += ["link.png", "a.dcm", "x.nii.gz#z:1"]
TEXTS = st.sampled_from(PIECES) | st.text(max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_opened: list[str] | None = None


def _hook(event, arguments):
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_hook)  # cannot be taken away; it does nothing unless a test listens


def _places(value, here=()):
    yield here
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _places(child, (*here, key))


@st.composite
def mutated(draw_from):
    """A valid row of some format after one to three mutations: a value replaced or removed, a text cut and stuffed."""
    kind = draw_from(st.sampled_from(sorted(SOURCES)))
    row = copy.deepcopy(draw_from(st.sampled_from(SOURCES[kind])))
    for _ in range(draw_from(st.integers(1, 3))):
        *path, last = draw_from(st.sampled_from([place for place in _places(row) if place]))
        parent = row
        for key in path:
            parent = parent[key]
        how = draw_from(st.sampled_from(["replace", "remove", "stuff"]))
        if how == "stuff" and isinstance(parent[last], str):
            text, at = parent[last], draw_from(st.integers(0, len(parent[last])))
            parent[last] = text[:at] + draw_from(st.sampled_from(PIECES)) + text[at + draw_from(st.integers(0, 3)) :]
        elif how == "remove":
            del parent[last]
        else:
            parent[last] = draw_from(VALUES)
        if not row:
            break
    return kind, row


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with pictures, beside one that no row may reach, though a link leads there."""
    root = tmp_path_factory.mktemp("fuzz").resolve()
    draw(root, "secret.png")
    for name in ("ct_1.png", "images/ct_1.png", "a.jpg", "synpic1.jpg"):
        draw(root / "data", name)
    (root / "data" / "link.png").symlink_to(root / "secret.png")
    return root / "data"


def run(folder, example):
    global _opened
    kind, row = example
    source = folder / "source.jsonl"
    source.write_text(f"{json.dumps(SOURCES[kind][0])}\n{json.dumps(row)}\n")
    _opened = []
    try:
        done = convert(source, folder / "out", format=kind)
        for path in (done.path, source):  # the source is not converted: any dirt may be in it
            check(path, image_folder=folder, workers=1)
            statistics(path, image_folder=folder)
    finally:
        opened, _opened = _opened, None
    assert done.rows_in == 2 == done.rows_out + done.rejected
    assert done.rows_out >= 1
    assert len(json.loads(done.path.read_text(encoding="utf-8"))) == done.rows_out
    libraries = tuple({sys.prefix, sys.base_prefix, str(Path(__file__).parents[2] / "llamafactory_clinkd")})
    assert [path for path in opened if not path.startswith((str(folder), *libraries))] == []
    assert str(source) in opened  # the hook does listen


CHECKS = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def mutations(folder, count, **how):
    """Runs ``count`` of them, and no fewer."""
    tried = 0

    @settings(max_examples=count, **CHECKS, **how)
    @given(mutated())
    def each(example):
        nonlocal tried
        run(folder, example)
        tried += 1

    each()
    assert tried >= count


def test_two_hundred_mutations(folder):
    mutations(folder, 200, derandomize=True)


@pytest.mark.long
def test_two_thousand_mutations(folder):
    mutations(folder, 2000)
