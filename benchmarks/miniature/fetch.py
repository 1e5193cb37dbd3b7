# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Brings the sample scans of ``totalsegmentator``'s source archive, which its wheel leaves out."""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from llamafactory_clinkd.utils.io import file_sha256


VERSION = "2.18.0"
SHA256 = "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03"
MEMBERS = (
    "example_ct.nii.gz",
    "example_seg_fast_force_split.nii.gz",
    "example_mr_sm.nii.gz",
    "example_seg_mr.nii.gz",
)


class ScansUnavailable(RuntimeError):
    """The archive could not be had; the message says why."""


def fetch_totalsegmentator(cache: str | Path, timeout: float = 300) -> Path:
    """Returns a folder that holds :data:`MEMBERS`, downloading the archive (38 MB) the first time.

    Args:
        cache: Folder for the files; it is created.
        timeout: Seconds that pip may take.

    Raises:
        ScansUnavailable: If pip fails, takes too long, or brings an archive of another content.
    """
    folder = Path(cache) / f"totalsegmentator-{VERSION}"
    if all((folder / name).exists() for name in MEMBERS):
        return folder

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as download:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", download, f"totalsegmentator=={VERSION}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise ScansUnavailable(f"pip did not bring totalsegmentator {VERSION} within {timeout:.0f} s.") from error
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ScansUnavailable(f"pip could not download totalsegmentator {VERSION}: {last}")

        archive = next(Path(download).glob("*.tar.gz"))
        if (found := file_sha256(archive)) != SHA256:
            raise ScansUnavailable(f"{archive.name} has SHA-256 {found}, expected {SHA256}.")
        _unpack(archive, folder)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    """Copies :data:`MEMBERS` out of the archive, each by write and rename."""
    with tarfile.open(archive) as tar:
        for name in MEMBERS:
            member = tar.extractfile(f"totalsegmentator-{VERSION}/tests/reference_files/{name}")
            partial = folder / f".{name}.part"
            partial.write_bytes(member.read())
            partial.replace(folder / name)
