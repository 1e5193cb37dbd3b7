# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import importlib
import json
import sys

import pytest
from typer.testing import CliRunner

from llamafactory_clinkd.data.cli import app

from .samples import MED_GRIT_TRAIN, TRAIN_ID, draw, sharegpt, write_source


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_convert_prints_a_summary_and_the_keys_of_the_recipe(run, tmp_path):
    bad = {"id": "ct_1", "conversations": []}
    source = write_source(tmp_path / "grit.json", [MED_GRIT_TRAIN, bad])
    done = run("convert", source, tmp_path / "out", "--json", tmp_path / "summary.json", "--tags", "qwen_vl")
    assert done.exit_code == 0, done.output
    for text in ("Format: med_grit", "detected", "no_turns", "task VG", "modality ct", "dataset: grit", "media_dir"):
        assert text in done.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["rows_in"], summary["rows_out"], summary["reasons"]) == (2, 1, {"no_turns": 1})
    assert "<ref>" in (tmp_path / "out" / "grit.json").read_text()


def test_errors_are_messages_without_a_traceback(run, tmp_path):
    source = write_source(tmp_path / "grit.json", [{"id": "ct_1", "conversations": []}, MED_GRIT_TRAIN])
    for arguments, text in (
        (("--strict",), "row 1"),
        (("--window", "wide"), "CENTRE,WIDTH"),
        (("--window", "40,0"), "has to be positive"),
        (("--slice", "w:1"), "not one of"),
        (("--name", "a/b"), "not a valid data set name"),
    ):
        done = run("convert", source, tmp_path / "out", *arguments)
        assert done.exit_code == 2
        assert "Error" in done.output and text in done.output
        assert "Traceback" not in done.output


def test_an_interrupted_conversion_explains_how_to_resume(run, tmp_path, monkeypatch):
    source = write_source(tmp_path / "grit.json", [MED_GRIT_TRAIN])
    module = importlib.import_module("llamafactory_clinkd.data.convert")
    monkeypatch.setattr(module, "build_rows", _interrupt)
    done = run("convert", source, tmp_path / "out")
    assert (done.exit_code, "again to finish" in done.output) == (130, True)
    monkeypatch.undo()
    assert run("convert", source, tmp_path / "out").exit_code == 0
    assert len(json.loads((tmp_path / "out" / "grit.json").read_text())) == 1


def _interrupt(*_):
    raise KeyboardInterrupt


def test_check_exits_with_1_if_there_is_an_error(run, tmp_path):
    draw(tmp_path, "ct_0.png")
    path = write_source(tmp_path / "set.json", [sharegpt("ct_0.png")])
    done = run("check", path, "--workers", 1)
    assert done.exit_code == 0, done.output
    assert "no problems" in done.output and "Tokens were not counted" in done.output
    write_source(path, [sharegpt("ct_0.png"), sharegpt("absent.png")])
    done = run("check", path, "--workers", 1, "--report", tmp_path / "report")
    assert done.exit_code == 1
    assert "image_missing" in done.output and "row 2" in done.output
    assert (tmp_path / "report.json").exists() and (tmp_path / "report.jsonl").exists()


def test_stats_prints_the_table_and_draws_the_figure(run, tmp_path):
    draw(tmp_path, "ct_0.png")
    path = write_source(tmp_path / "set.json", [sharegpt("ct_0.png"), sharegpt("mr_0.png", modality="mr")])
    done = run("stats", path, "--json", tmp_path / "stats.json")
    assert done.exit_code == 0, done.output
    assert "50.0%" in done.output and "40 x 30: 1" in done.output and "1 do not open" in done.output
    assert (tmp_path / "set.modalities.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "stats.json").read_text())["modalities"] == {"ct": 1, "mr": 1}


def test_without_matplotlib_the_numbers_are_still_written(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = write_source(tmp_path / "set.json", [sharegpt("ct_0.png")])
    done = run("stats", path, "--json", tmp_path / "stats.json")
    assert done.exit_code == 2
    assert "100.0%" in done.output and "pip install 'llamafactory-clinkd[eval]'" in done.output
    assert json.loads((tmp_path / "stats.json").read_text())["turns"] == 1


def test_check_reports_what_it_could_not_compare(run, tmp_path):
    draw(tmp_path, "ct_0.png")
    test = write_source(tmp_path / "test.json", [sharegpt("absent.png")])
    done = run("check", write_source(tmp_path / "set.json", [sharegpt("ct_0.png")]), "--workers", 1, "--against", test)
    assert "1 images of the other sets do not open" in done.output


def test_split_and_subset(run, tmp_path):
    rows = [sharegpt(f"{TRAIN_ID[:-1]}{n % 3}.png".replace("0001", f"{n:04d}"), answer=str(n)) for n in range(40)]
    path = write_source(tmp_path / "set.json", rows)
    done = run("split", path, "--test", 0.25, "--seed", 3)
    assert done.exit_code == 0, done.output
    assert "set_train: 30 rows; set_test: 10 rows; by volume, seed 3." in done.output
    assert "Error" in run("split", path, "--names", "one").output
    done = run("subset", path, "--size", 5, "--stratify")
    assert "set_5: 5 rows, stratified by modality and task, seed 0." in done.output
    assert len(json.loads((tmp_path / "set_5.json").read_text())) == 5
