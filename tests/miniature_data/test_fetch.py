# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from miniature import fetch
from miniature.fetch import MEMBERS, VERSION, ScansUnavailable, fetch_totalsegmentator

from llamafactory_clinkd.utils.io import file_sha256


def make_archive(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name in (*MEMBERS, "other.nii.gz"):
            info = tarfile.TarInfo(f"totalsegmentator-{VERSION}/tests/reference_files/{name}")
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))


@pytest.fixture
def pip(monkeypatch):
    """Stands in for pip: writes an archive, or fails; counts its calls."""
    calls = []

    def run(command, **_):
        calls.append(command)
        if pip.fails:
            return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: No matching distribution found\n")
        archive = Path(command[command.index("--dest") + 1]) / f"totalsegmentator-{VERSION}.tar.gz"
        make_archive(archive)
        monkeypatch.setattr(fetch, "SHA256", pip.sha256 or file_sha256(archive))
        return subprocess.CompletedProcess(command, 0, "", "")

    pip = type("Pip", (), {"fails": False, "sha256": None, "calls": calls})
    monkeypatch.setattr(fetch.subprocess, "run", run)
    return pip


def test_the_needed_files_are_unpacked_and_fetched_once(tmp_path, pip):
    folder = fetch_totalsegmentator(tmp_path)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: name for name in MEMBERS}
    assert fetch_totalsegmentator(tmp_path) == folder and len(pip.calls) == 1
    assert "--no-deps" in pip.calls[0] and f"totalsegmentator=={VERSION}" in pip.calls[0]
    (folder / MEMBERS[0]).unlink()
    fetch_totalsegmentator(tmp_path)
    assert len(pip.calls) == 2


def test_pips_last_word_is_passed_on(tmp_path, pip):
    pip.fails = True
    with pytest.raises(ScansUnavailable, match="No matching distribution"):
        fetch_totalsegmentator(tmp_path)


def test_an_archive_of_another_content_is_refused(tmp_path, pip):
    pip.sha256 = "0" * 64
    with pytest.raises(ScansUnavailable, match="SHA-256"):
        fetch_totalsegmentator(tmp_path)
    assert not any((tmp_path / f"totalsegmentator-{VERSION}").iterdir())
