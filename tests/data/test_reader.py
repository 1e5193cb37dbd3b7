# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import pytest

from llamafactory_clinkd.data import reader
from llamafactory_clinkd.data.problems import Reject
from llamafactory_clinkd.data.reader import BrokenFileError, read_rows


ROWS = [{"id": number, "text": f"Leber {'ü' * (number % 7)}", "nested": [{"a": [1.5, None]}]} for number in range(60)]


def plain(path):
    return [row if isinstance(row, dict) else row.reason for _, row in read_rows(path)]


@pytest.mark.parametrize("window", [1, 2, 7, 64, 1 << 20])
@pytest.mark.parametrize("layout", ["dense", "indented", "lines", "bom"])
def test_every_window_size_and_layout_gives_the_rows(tmp_path, monkeypatch, window, layout):
    monkeypatch.setattr(reader, "WINDOW", window)
    path = tmp_path / "rows.json"
    text = {
        "dense": json.dumps(ROWS, ensure_ascii=False),
        "indented": json.dumps(ROWS, indent=3),
        "lines": "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
        "bom": "\ufeff  \n" + json.dumps(ROWS, ensure_ascii=False) + "\n ",
    }[layout]
    path.write_text(text, encoding="utf-8")
    assert list(read_rows(path)) == list(enumerate(ROWS, start=1))


@pytest.mark.parametrize("window", [1, 3, 1 << 20])
def test_what_is_no_object_costs_its_own_row(tmp_path, monkeypatch, window):
    monkeypatch.setattr(reader, "WINDOW", window)
    path = tmp_path / "rows.json"
    path.write_text('[{"a": NaN}, 1234567890123456789012345, "x", null, [1], {"b": 1e999}, 12]', encoding="utf-8")
    kinds = [type(row) for _, row in read_rows(path)]
    assert kinds == [dict, Reject, Reject, Reject, Reject, dict, Reject]


def test_a_bad_line_costs_its_own_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n\n{"a": "\xff"}\n[1]\n{"a": "\xe2\x80\xa8"}\n{"a": 5}')
    assert plain(path) == [{"a": 1}, "not_json", {"a": "\udcff"}, "not_an_object", {"a": "\u2028"}, {"a": 5}]


@pytest.mark.parametrize("window", [1, 5, 1 << 20])
@pytest.mark.parametrize("layout", ["array", "lines", "member"])
def test_a_row_with_a_key_twice_costs_its_own_row(tmp_path, monkeypatch, window, layout):
    """A parser keeps the last value and drops the others."""
    monkeypatch.setattr(reader, "WINDOW", window)
    rows = ['{"a": 1}', '{"a": 1, "b": 2, "a": 3}', '{"a": [{"c": 1, "c": 1}]}', '{"a": 4}']
    path = tmp_path / "rows.json"
    texts = {"array": f"[{', '.join(rows)}]", "lines": "\n".join(rows), "member": f'{{"x": [{",".join(rows)}]}}'}
    path.write_text(texts[layout])
    found = [row for _, row in read_rows(path)] if layout != "member" else [row for _, row in reader.members(path)][1:]
    assert found[0] == {"a": 1} and found[3] == {"a": 4}
    assert [row.reason for row in found[1:3]] == ["not_json"] * 2
    assert "'a' occurs twice" in found[1].detail and "'c' occurs twice" in found[2].detail
    path.write_text('{"x": {"a": 1, "a": 2}}')
    with pytest.raises(BrokenFileError, match="member 'x': the key 'a' occurs twice"):
        list(reader.members(path))


def test_an_invalid_byte_in_an_array_costs_its_own_row(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"a": "\xff\xfe"}, {"a": "good"}]')
    assert plain(path) == [{"a": "\udcff\udcfe"}, {"a": "good"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a": ', "row 2 is not valid JSON"),
        ('[{"a": 1}', "ends after row 1"),
        ('[{"a": 1},', "ends after row 1"),
        ('[{"a": 1} {"a": 2}]', "after row 1: expected"),
        ('[{"a": 1}, ]', "row 2 is not valid JSON"),
        ('[{"a": 1}][{"a": 2}]', "continues after its closing bracket"),
    ],
)
def test_a_broken_array_names_the_row(tmp_path, text, message):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(BrokenFileError, match=message):
        list(read_rows(path))


def test_empty_files_have_no_rows(tmp_path):
    for text in ("", "[]", " [ ]\n", "\n"):
        path = tmp_path / "rows.json"
        path.write_text(text)
        assert list(read_rows(path)) == []


def test_a_row_over_the_limit_is_an_error_not_a_memory_leak(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "WINDOW", 100)
    monkeypatch.setattr(reader, "LARGEST_ROW", 1000)
    path = tmp_path / "rows.json"
    path.write_text('[{"a": "' + "x" * 100_000)
    read = []
    with pytest.raises(BrokenFileError, match="row 1"):
        list(read_rows(path, read.append))
    assert max(read) < 5000


@pytest.mark.parametrize("end", ["", "\n", '\n{"a": 3}'])
def test_a_line_over_the_limit_costs_itself_and_no_memory(tmp_path, monkeypatch, end):
    monkeypatch.setattr(reader, "WINDOW", 100)
    monkeypatch.setattr(reader, "LARGEST_ROW", 1000)
    longest = []
    real = reader._line
    monkeypatch.setattr(reader, "_line", lambda line: longest.append(len(line)) or real(line))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": "' + "x" * 100_000 + '"}' + end)
    found = [{"a": 1}, "not_json"] + ([{"a": 3}] if "3" in end else [])
    assert plain(path) == found
    assert max(longest) < 1000


def test_bytes_read_reach_the_end(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    read = []
    list(read_rows(path, read.append))
    assert read[-1] == path.stat().st_size
