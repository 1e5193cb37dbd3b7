# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Hashes of files: read once, read again when anything about the file changed."""

import csv
import json
import os
import shutil
import time
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet
import pytest
from small_run import recipe

from llamafactory_clinkd.phases import content
from llamafactory_clinkd.phases.content import ContentHashes, dataset_fingerprint, named_content
from llamafactory_clinkd.utils.io import sampled_sha256


def old(path, text, seconds=60):
    path.write_text(text)
    past = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(past, past))
    return path


@pytest.fixture
def reads(monkeypatch):
    """The files that are hashed, in order; without waiting, a file counts as old enough to be remembered."""
    found = []
    stock = content.file_sha256
    monkeypatch.setattr(content, "file_sha256", lambda path: (found.append(os.path.basename(path)), stock(path))[1])
    monkeypatch.setattr(content, "FRESH_NS", 0)
    return found


def test_unchanged_file_is_read_once_also_in_a_later_run(tmp_path, reads):
    path, kept = old(tmp_path / "a.png", "one"), tmp_path / "hashes.json"
    hashes = ContentHashes(kept)
    first = hashes.of(path)
    hashes.save()
    assert hashes.of(path) == ContentHashes(kept).of(path) == first and reads == ["a.png"]
    os.utime(path)
    assert ContentHashes(kept).of(path) == first and reads == ["a.png"] * 2, "another time, the same content"


def test_same_size_and_time_but_other_content_is_noticed(tmp_path, reads):
    """As `cp -p` leaves it: the inode's time of change cannot be set back."""
    path = old(tmp_path / "a.png", "one")
    hashes = ContentHashes()
    first, status = hashes.of(path), path.stat()
    path.write_text("two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns and hashes.of(path) != first


def test_hash_of_a_file_that_has_just_changed_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "FRESH_NS", 3600 * 10**9)
    (tmp_path / "a.png").write_text("one")
    hashes = ContentHashes(tmp_path / "hashes.json")
    hashes.of(tmp_path / "a.png")
    hashes.save()
    assert not (tmp_path / "hashes.json").exists()


def test_only_paths_have_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "prompt.md").write_text("one")
    hashes = ContentHashes()
    for value in ("full", "org/model", "1.5", ".", "/", 3, None, True, ["q_proj"], {"a": "prompt.md"}):
        assert named_content(value, hashes) is None, value
    one = named_content("prompt.md", hashes)
    assert named_content(str(tmp_path / "prompt.md"), hashes) == one
    assert named_content(["prompt.md", "q_proj"], hashes) == [one, None]
    (tmp_path / "full" / "a").write_text("1")
    before = named_content("./full", hashes)
    (tmp_path / "full" / "a").rename(tmp_path / "full" / "b")
    assert named_content("./full", hashes) != before


def fingerprint(folder, names, **changes):
    data = {"dataset_dir": str(folder), "media_dir": str(folder), "max_samples": None}
    return dataset_fingerprint(names, SimpleNamespace(**(data | changes)), ContentHashes())


def write_info(folder, **entries):
    (folder / "dataset_info.json").write_text(json.dumps(entries))


def test_data_sets_without_a_file_are_recorded_as_their_entry(tmp_path):
    write_info(tmp_path, remote={"hf_hub_url": "a/b", "num_samples": 3})
    found = fingerprint(tmp_path, "remote, other")
    assert found["data_entries"] == {"remote": {"hf_hub_url": "a/b", "num_samples": 3}, "other": {}}
    assert found["data_files"] == found["data_media"] == {}
    assert fingerprint(tmp_path, ["remote"], dataset_dir="ONLINE")["data_entries"] == {"remote": {}}
    assert fingerprint(tmp_path, None) == {"data_files": {}, "data_entries": {}, "data_media": {}}


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_media_are_found_in_every_kind_of_file(tmp_path, kind):
    names = [old(tmp_path / f"{number}.png", str(number)).name for number in range(3)]
    rows = [{"text": name, "image": name} for name in [*names, names[0]]]
    path = tmp_path / f"rows.{kind}"
    if kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "image"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    write_info(tmp_path, rows={"file_name": path.name, "columns": {"images": "image", "videos": "missing"}})
    before = fingerprint(tmp_path, "rows")["data_media"]
    assert before["rows"].startswith("3 files, ")
    (tmp_path / "2.png").write_text("other")
    assert fingerprint(tmp_path, "rows")["data_media"] != before
    assert fingerprint(tmp_path, "rows", max_samples=2)["data_media"]["rows"].startswith("2 files, ")
    (tmp_path / "2.png").unlink()
    assert fingerprint(tmp_path, "rows")["data_media"] != before


def test_files_of_a_folder_count_together(tmp_path):
    (tmp_path / "rows").mkdir()
    for number in range(2):
        (tmp_path / "rows" / f"{number}.jsonl").write_text('{"text": 1}\n')
    write_info(tmp_path, rows={"file_name": "rows"})
    before = fingerprint(tmp_path, "rows")["data_files"]
    (tmp_path / "rows" / "1.jsonl").write_text('{"text": 2}\n')
    assert fingerprint(tmp_path, "rows")["data_files"] != before != {}


@pytest.mark.parametrize("size", [0, 1, 4096, 64 * 64, 64 * 64 + 1, 1_000_003])
def test_samples_are_of_the_whole_file(tmp_path, size):
    """Any byte counts of a small file; of a large one its size, its ends, and a change that is as long as a gap."""
    path = tmp_path / "weights"

    def digest(content):
        path.write_bytes(content)
        return sampled_sha256(path, blocks=64, block_bytes=64)

    content = bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    found = {digest(content), digest(content + b"x")}
    gap = max(1, size // 63)
    places = [*range(0, size, gap)][:64]
    for place in places:
        found.add(
            digest(content[:place] + bytes(255 - b for b in content[place : place + gap]) + content[place + gap :])
        )
    assert len(found) == 2 + len(places)


@pytest.mark.parametrize("columns", [{}, {"images": "images"}])
@pytest.mark.parametrize("layout", ["[{}, {}]", "{}\n{}\n"])
def test_a_row_with_a_key_twice_is_refused(tmp_path, layout, columns):
    """Of a JSON array, stock reads the last value without a word."""
    twice = '{"messages": [{"role": "user", "content": "one", "content": "two"}]}'
    path = tmp_path / "rows.json"
    path.write_text(layout.format('{"messages": []}', twice))
    info = {"rows": {"file_name": "rows.json", "columns": columns}}
    data = SimpleNamespace(dataset_dir=str(tmp_path), media_dir=None, max_samples=None)
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"rows.json, row 2: the key 'content' occurs twice.*Correct it"):
        dataset_fingerprint("rows", data, ContentHashes())


def test_a_run_with_a_key_twice_in_a_row_ends_before_its_first_phase(workspace, tmp_path, monkeypatch):
    from llamafactory.train.tuner import run_exp

    shutil.copytree(workspace / "data", tmp_path / "data")
    path = tmp_path / "data" / "train.json"
    path.write_text(path.read_text().replace('"role": "user"', '"role": "system", "role": "user"', 1))
    monkeypatch.setattr("llamafactory.train.sft.workflow.load_model", lambda *args: pytest.fail("a model is loaded"))
    with pytest.raises(ValueError, match="train.json, row 1: the key 'role' occurs twice"):
        run_exp(recipe(workspace, tmp_path / "out", dataset_dir=str(tmp_path / "data")))


def test_a_large_data_set_is_read_once_for_its_media(tmp_path, monkeypatch):
    """Later runs read the list; another image or another data set is noticed."""
    monkeypatch.setattr(content, "LARGE_BYTES", 0)
    monkeypatch.setattr(content, "FRESH_NS", 0)
    read, stock = [], content.read_rows
    monkeypatch.setattr(content, "read_rows", lambda path: read.append(path) or stock(path))
    rows = old(tmp_path / "rows.json", json.dumps([{"images": [name]} for name in ("a.png", "b.png", "a.png")]))
    for name in ("a.png", "b.png"):
        old(tmp_path / name, name)
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"rows": {"file_name": "rows.json", "columns": {"images": "images"}}})
    )
    data = SimpleNamespace(dataset_dir=str(tmp_path), media_dir=str(tmp_path), max_samples=None)

    def fingerprint():
        hashes = ContentHashes(tmp_path / "hashes.json")
        found = [dataset_fingerprint(["rows"], data, hashes) for _ in range(2)]
        hashes.save()
        assert found[0] == found[1]
        return found[0]

    first = fingerprint()
    assert first["data_media"]["rows"].startswith("2 files, ") and fingerprint() == first and len(read) == 1
    old(tmp_path / "a.png", "another", seconds=30)
    assert fingerprint()["data_media"] != first["data_media"] and len(read) == 1
    rows.write_text(json.dumps([{"images": ["b.png"]}]))
    assert fingerprint()["data_media"]["rows"].startswith("1 files, ") and len(read) == 2
