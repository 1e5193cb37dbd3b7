# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The folder of a data set: two runs at once, links that lead out, modes of files, and names of other files."""

import json
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner

from llamafactory_clinkd.data.cli import app
from llamafactory_clinkd.data.convert import convert
from llamafactory_clinkd.data.split import write_subset
from llamafactory_clinkd.utils.io import file_lock

from .samples import MED_GRIT_TRAIN, SHAREGPT, write_source


CHILD = """
import sys
from llamafactory_clinkd.data.convert import convert
sys.stdin.readline()
try:
    done = convert(sys.argv[1], sys.argv[2], name=sys.argv[3])
except ValueError as error:
    print(error)
    sys.exit(3)
print(done.rows_out)
"""


def rows_of(count):
    turns = [["Where?", "Here."]]
    return [MED_GRIT_TRAIN | {"id": f"ct_{number}", "conversations": turns} for number in range(count)]


def start(source, folder, name):
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(source), str(folder), name], **pipe)


def together(processes):
    """Starts all at one moment; their outputs and exit codes."""
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate()[0].strip() for process in processes]
    return outputs, [process.returncode for process in processes]


@pytest.mark.slow
def test_of_two_conversions_to_one_name_one_is_refused(tmp_path):
    source = write_source(tmp_path / "source.jsonl", rows_of(8000))
    outputs, codes = together([start(source, tmp_path / "out", "grit") for _ in range(2)])
    assert sorted(codes) == [0, 3]
    assert outputs[codes.index(0)] == "8000" and len(json.loads((tmp_path / "out" / "grit.json").read_text())) == 8000
    assert "another conversion to 'grit' (process" in outputs[codes.index(3)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"grit.json", "dataset_info.json", "rejects.jsonl"}


@pytest.mark.slow
def test_conversions_to_several_names_at_once_all_get_their_entry(tmp_path):
    source = write_source(tmp_path / "source.jsonl", [*rows_of(300), {"id": "ct_1", "conversations": []}])
    names = [f"set_{number}" for number in range(6)]
    _, codes = together([start(source, tmp_path / "out", name) for name in names])
    assert codes == [0] * 6
    assert set(json.loads((tmp_path / "out" / "dataset_info.json").read_text())) == set(names)
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert sorted(line["dataset"] for line in rejects) == names


def test_a_subset_waits_for_its_turn_at_dataset_info(tmp_path):
    path = write_source(tmp_path / "set.json", rows_of(5))
    with file_lock(tmp_path / ".clinkd.lock", wait=True):
        thread = threading.Thread(target=write_subset, args=(path, "some", 2))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not (tmp_path / "dataset_info.json").exists()
    thread.join()
    assert set(json.loads((tmp_path / "dataset_info.json").read_text())) == {"some"}


@pytest.mark.parametrize("place", [".convert", ".convert/s", ".convert/s/rows", ".convert/s/rejects", ".s.lock"])
def test_nothing_is_written_through_a_link(tmp_path, place):
    outside, out = tmp_path / "outside", tmp_path / "out"
    link = out / place
    link.parent.mkdir(parents=True)
    if place in (".convert", ".convert/s"):
        outside.mkdir()
        link.symlink_to(outside)
    else:
        outside.write_text("kept")
        link.symlink_to(outside)
    with pytest.raises((ValueError, OSError), match="is a link|symbolic link"):
        convert(write_source(tmp_path / "s.json", [SHAREGPT]), out, name="s")
    assert list(outside.iterdir()) == [] if outside.is_dir() else outside.read_text() == "kept"


@pytest.mark.parametrize("place", ["s.json", "rejects.jsonl", "dataset_info.json"])
def test_a_link_in_place_of_a_result_is_replaced(tmp_path, place):
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.write_text("{}")
    out.mkdir()
    (out / place).symlink_to(outside)
    convert(write_source(tmp_path / "s.json", [SHAREGPT]), out, name="s")
    assert outside.read_text() == "{}" and not (out / place).is_symlink()


def test_files_keep_their_modes(tmp_path):
    source, out = write_source(tmp_path / "s.json", [SHAREGPT]), tmp_path / "out"
    convert(source, out, name="s")
    names = ("s.json", "dataset_info.json", "rejects.jsonl")
    for name in names:
        (out / name).chmod(0o664)
    convert(source, out, name="s")
    write_subset(out / "s.json", "some", 1)
    assert {name: oct((out / name).stat().st_mode & 0o777) for name in names} == dict.fromkeys(names, "0o664")


@pytest.mark.parametrize(
    ("rows", "words"), [([], "the source has no rows"), ([{"id": "a"}], "all 1 rows were rejected")]
)
def test_a_conversion_without_a_row_exits_with_1(tmp_path, rows, words):
    source = write_source(tmp_path / "s.json", rows)
    done = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "out"), "--format", "med_grit"])
    assert done.exit_code == 1 and words in done.output.replace("\n", " ")


def test_a_subset_named_dataset_info_is_refused(tmp_path):
    source = write_source(tmp_path / "s.json", [SHAREGPT] * 3)
    convert(source, tmp_path / "out", name="s")
    before = (tmp_path / "out" / "dataset_info.json").read_bytes()
    for arguments in (["subset", "--name", "dataset_info"], ["split", "--names", "train,dataset_info"]):
        done = CliRunner().invoke(app, [arguments[0], str(tmp_path / "out" / "s.json"), *arguments[1:]])
        assert done.exit_code == 2 and "not a valid data set name" in done.output
    assert (tmp_path / "out" / "dataset_info.json").read_bytes() == before
