# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import os

import pytest

from llamafactory_clinkd.utils.io import append_jsonl, atomic_path, write_json, write_text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_modes_are_those_of_an_ordinary_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "new.json", {})
        (tmp_path / "shared.json").touch()
        (tmp_path / "shared.json").chmod(0o664)
        write_json(tmp_path / "shared.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "shared.json").stat().st_mode & 0o777 == 0o664


@pytest.mark.parametrize("start", ["", "\n", "torn", '{"a": 1}\n', '{"a": 1}\n{"b', '{"a": 1}\n' + "x" * 10_000])
def test_a_torn_last_line_is_cut_off_before_the_next_is_appended(tmp_path, start):
    path = tmp_path / "rows.jsonl"
    path.write_text(start)
    for row in ({"é": 1}, {"z": 2}):
        append_jsonl(path, [row])
    assert path.read_text() == start[: start.rfind("\n") + 1] + '{"é": 1}\n{"z": 2}\n'
