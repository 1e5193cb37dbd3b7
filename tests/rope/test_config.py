# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import pytest

from llamafactory_clinkd.rope.config import FILE, read_rope_config, reconcile, write_rope_config


SETTINGS = {"variant": "mcg", "alpha_h": 2, "alpha_w": 1, "gap": 2, "sections": [0, 32, 32], "image_square": True}


def test_what_is_written_is_read(tmp_path):
    path = write_rope_config(tmp_path / "new", SETTINGS)
    assert json.loads(path.read_text())["format"] == 1
    assert read_rope_config(tmp_path / "new") == SETTINGS
    assert [p.name for p in path.parent.iterdir()] == [FILE]


def test_no_file_is_none(tmp_path):
    assert read_rope_config(tmp_path) is None


@pytest.mark.parametrize("content", ['{"format": 2, "variant": "mcg"}', "[]", '{"variant": "mcg"}'])
def test_another_format_is_refused(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=r"clinkd_config.json has the format .* reads 1"):
        read_rope_config(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / FILE).write_text('{"format": 1, "var')
    with pytest.raises(ValueError, match="clinkd_config.json is not valid JSON"):
        read_rope_config(tmp_path)


@pytest.mark.parametrize("settings", [{"alpha_h": 1}, {"variant": "mcg", "alpha": 1}])
def test_unknown_or_missing_keys_are_refused(tmp_path, settings):
    with pytest.raises(ValueError, match="keys must be variant"):
        write_rope_config(tmp_path, settings)
    (tmp_path / FILE).write_text(json.dumps({"format": 1, **settings}))
    with pytest.raises(ValueError, match="keys must be variant"):
        read_rope_config(tmp_path)


@pytest.mark.parametrize(
    ("saved", "requested", "expected"),
    [
        (None, None, None),
        (SETTINGS, None, SETTINGS),
        (None, SETTINGS, SETTINGS),
        (SETTINGS, SETTINGS, SETTINGS),
        (SETTINGS, {"variant": "mcg"}, SETTINGS),
        (SETTINGS, {"variant": "mcg", "sections": None}, SETTINGS),
        ({"variant": "mcg"}, {"variant": "mcg", "image_square": False}, {"variant": "mcg", "image_square": False}),
    ],
)
def test_agreeing_settings(saved, requested, expected):
    assert reconcile(saved, requested) == expected


def test_disagreeing_settings_show_both():
    with pytest.raises(ValueError, match=r"alpha_h: saved 2, requested 1") as error:
        reconcile(SETTINGS, {**SETTINGS, "alpha_h": 1})
    assert str(SETTINGS) in str(error.value)
    with pytest.raises(ValueError, match=r"sections: saved None, requested \[0, 32, 32\]"):
        reconcile({**SETTINGS, "sections": None}, SETTINGS)
