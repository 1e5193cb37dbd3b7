# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import hashlib
import json
import random
import subprocess
import sys

import pytest

from llamafactory_clinkd.data.split import (
    choose_subset,
    groups_of,
    order_key,
    row_keys,
    split_groups,
    stratum_of,
    write_split,
    write_subset,
)

from .samples import sharegpt, write_source


def rows_of(count):
    modalities = ["ct", "ct", "ct", "mr", "pet"]
    return [
        sharegpt(
            f"{modalities[n % 5]}_00--set--case_{n // 4:03d}--x_{n % 4:04d}.png",
            answer=str(n),
            modality=modalities[n % 5],
            task=["VG", "MIA"][n % 2],
        )
        for n in range(count)
    ]


def test_the_draw_never_changes():
    """The digest is that of coreutils, ``printf '0\\na' | sha256sum``; a change here changes everybody's subsets."""
    assert order_key(0, "a").hex() == "0d3b8411bde7fa848b384a022e7da931520283cf97550a020e7c6c04cc086893"

    rows = rows_of(40)
    texts = [json.dumps([row["messages"], row["images"]], sort_keys=True) for row in rows]
    plain = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    drawn = sorted(range(40), key=lambda index: hashlib.sha256(f"7\n{plain[index]} 0".encode()).digest())
    assert choose_subset(row_keys(rows, seed=7), 6) == sorted(drawn[:6])


def test_another_process_draws_the_same_rows(tmp_path):
    path = write_source(tmp_path / "rows.json", rows_of(50))
    code = (
        "import json, sys; from llamafactory_clinkd.data.split import *;"
        "print(choose_subset(row_keys(json.load(open(sys.argv[1])), 3), 10))"
    )
    printed = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed})
        printed.add(done.stdout)
    assert printed == {f"{choose_subset(row_keys(rows_of(50), 3), 10)}\n"}


def test_order_of_the_rows_does_not_matter():
    rows = rows_of(60)
    chosen = {rows[index]["id"] for index in choose_subset(row_keys(rows, 1), 20)}
    random.Random(0).shuffle(rows)
    assert {rows[index]["id"] for index in choose_subset(row_keys(rows, 1), 20)} == chosen


def test_seeds_differ_and_a_larger_subset_holds_the_smaller():
    rows = rows_of(100)
    small, large = (set(choose_subset(row_keys(rows, 1), size)) for size in (20, 40))
    assert small < large
    assert small != set(choose_subset(row_keys(rows, 2), 20))
    assert choose_subset(row_keys(rows, 1), 1000) == list(range(100))
    with pytest.raises(ValueError, match="negative"):
        choose_subset(row_keys(rows, 1), -1)


def test_equal_rows_are_drawn_apart():
    keys = row_keys([sharegpt("ct_1.png")] * 30, 0)
    assert len(set(keys)) == 30
    assert len(choose_subset(keys, 7)) == 7


@pytest.mark.parametrize("size", [0, 1, 7, 33, 99])
def test_strata_keep_their_shares(size):
    rows = rows_of(100)
    strata = [stratum_of(row) for row in rows]
    chosen = choose_subset(row_keys(rows, 0), size, strata)
    assert len(chosen) == size == len(set(chosen))
    for stratum in set(strata):
        exact = strata.count(stratum) * size / 100
        assert abs(sum(strata[index] == stratum for index in chosen) - exact) < 1


@pytest.mark.parametrize("by", ["image", "volume"])
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_no_side_sees_the_other(by, share):
    rows = rows_of(200)
    rows[5]["images"].append(rows[150]["images"][0])  # a row that ties two volumes together
    groups = [groups_of(row, by) for row in rows]
    is_test = split_groups(groups, share, seed=4)
    sides = [
        {group for row, test in zip(groups, is_test, strict=True) if test == side for group in row}
        for side in (False, True)
    ]
    assert sides[0] and sides[1]
    assert not sides[0] & sides[1]
    assert is_test[5] == is_test[150]
    assert share * 200 <= sum(is_test) < share * 200 + 9


def test_split_of_images_that_have_no_volume():
    rows = [sharegpt(f"synpic{number}.jpg") for number in range(10)] + [{"messages": [], "images": []}]
    assert groups_of(rows[0], "volume") == ["synpic0.jpg"]
    assert sum(split_groups([groups_of(row, "volume") for row in rows], 0.5, 0)) == 6
    with pytest.raises(ValueError, match="by image, by volume or by patient"):
        groups_of(rows[0], "hospital")
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_groups([["a"]], 1.0, 0)


@pytest.mark.parametrize(("by", "advice"), [("volume", "or split by image"), ("image", "or more images")])
def test_a_split_that_leaves_nothing_to_train_on_is_an_error(tmp_path, by, advice):
    image = "ct_00--set--case_1--x_0001.png"
    path = write_source(tmp_path / "grit.json", [sharegpt(image, answer=str(n)) for n in range(5)])
    with pytest.raises(ValueError, match=f"Nothing is left of the 5 rows.*{advice}"):
        write_split(path, "train", "test", by=by)
    assert not (tmp_path / "train.json").exists()


def test_files(tmp_path):
    rows = rows_of(100)
    path = write_source(tmp_path / "grit.json", rows)
    assert write_subset(path, "some", 30, seed=1, stratify=True) == 30
    counts = write_split(path, "train", "test", share=0.2, by="volume", seed=1)
    assert sum(counts) == 100
    train, test = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("train", "test"))
    assert (len(train), len(test)) == counts
    assert sorted(row["id"] for row in train + test) == sorted(row["id"] for row in rows)
    order = [row["id"] for row in rows]
    assert [row["id"] for row in train] == sorted((row["id"] for row in train), key=order.index)
    assert set(json.loads((tmp_path / "dataset_info.json").read_text())) == {"some", "train", "test"}
    with pytest.raises(ValueError, match="data set itself"):
        write_subset(path, "grit", 3)
    path.write_text('[{"a": 1}, 3]')
    with pytest.raises(ValueError, match="row 2"):
        write_subset(path, "some", 1)
    assert len(json.loads((tmp_path / "some.json").read_text())) == 30
    assert not list(tmp_path.glob(".*"))


def test_a_split_by_patient_reads_the_column_the_hash_and_the_case():
    hashed = "clinkd_png/a/1.dcm--series-0123456789abcdef--patient-fedcba9876543210--w40_400--z_0000.png"
    assert groups_of(sharegpt(hashed), "patient") == ["patient-fedcba9876543210"]
    assert groups_of(sharegpt(hashed), "volume") == ["series-0123456789abcdef"]
    assert groups_of(sharegpt(hashed, patient=7), "patient") == ["7"]
    assert groups_of(sharegpt("mr_00--ACDC--patient018_frame01--x_0000.png"), "patient") == ["acdc--patient018"]
    for row in (sharegpt("synpic0.jpg"), {"messages": [], "images": []}, sharegpt("a--b--z_0001.png", patient="")):
        with pytest.raises(ValueError, match="patient of the row .* is not known.*--patient-column"):
            groups_of(row, "patient")


def test_no_patient_is_on_both_sides(tmp_path):
    rows = [sharegpt(f"img_{n}.png", answer=str(n), patient=f"p{n % 7}") for n in range(70)]
    write_split(write_source(tmp_path / "set.json", rows), "train", "test", share=0.3, by="patient")
    train, test = (
        {row["patient"] for row in json.loads((tmp_path / f"{n}.json").read_text())} for n in ("train", "test")
    )
    assert train and test and not train & test


@pytest.mark.parametrize("name", ["dataset_info", "Dataset_Info", "rejects", "../up", ".hidden", "n" * 300])
def test_names_of_other_files_are_refused(tmp_path, name):
    path = write_source(tmp_path / "set.json", rows_of(10))
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(ValueError, match="not a valid data set name"):
        write_subset(path, name, 3)
    for names in ((name, "test"), ("train", name)):
        with pytest.raises(ValueError, match="not a valid data set name"):
            write_split(path, *names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dataset_info.json", "set.json"]
    assert (tmp_path / "dataset_info.json").read_text() == "{}"
