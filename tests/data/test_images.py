# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import os

import pytest

from llamafactory_clinkd.data.images import known_modality, path_within, relative_path
from llamafactory_clinkd.data.problems import Reject


@pytest.mark.parametrize(("value", "path"), [("a.png", "a.png"), ("./a//b.png", "a/b.png"), ("a\\b.png", "a/b.png")])
def test_paths(value, path):
    assert relative_path(value) == path


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ".",
        "..",
        "../a",
        "a/../b",
        "/etc/passwd",
        "C:\\a",
        "file:///a",
        "http://a/b",
        "~/a",
        "a\0b",
        "\\\\h\\a",
    ]
    + [None, 3, ["a"], "a\ud800"],
)
def test_paths_that_leave(value):
    with pytest.raises(Reject) as caught:
        relative_path(value)
    assert caught.value.reason == "bad_path"


def test_links_are_followed_before_judging(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"")
    (folder / "inside.png").write_bytes(b"")
    os.symlink(folder / "inside.png", folder / "good.png")
    os.symlink(tmp_path / "secret.png", folder / "bad.png")
    os.symlink(folder / "circle.png", folder / "circle.png")
    assert path_within(folder, "good.png") == (folder / "inside.png").resolve()
    with pytest.raises(Reject, match="outside the data folder"):
        path_within(folder, "bad.png")
    with pytest.raises(Reject):
        path_within(folder, "circle.png")


def test_modalities():
    assert known_modality(None, "images/ct_00--a--b--x_1.png") == "ct"
    assert known_modality(None, "synpic1.jpg") == "unknown"
    assert known_modality(None, None) == "unknown"
    assert known_modality("MRI", "synpic1.jpg") == "mr"
    assert known_modality("X-Ray", None) == "x"
    assert known_modality({"chest_xray": False, "histology": True}, None) == "histology"
    assert known_modality({"chest_xray": False}, "ct_1.png") == "ct"
    assert known_modality("\ud800", "ct_1.png") == "ct"
