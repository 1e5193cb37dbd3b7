# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which versions the seams were read in, checked once before the first patch."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


SUPPORTED = {
    "llamafactory": (">=0.9.5,<0.10", "0.9.5 is the first whose SFT trainer takes `ref_model`"),
    "transformers": (">=5.0,<=5.6.0", "the correction rounds extend `Trainer._run_epoch`, new in 5.0"),
}


class UnsupportedVersionError(RuntimeError):
    """An installed package is outside the range whose seams are known."""


def found_versions() -> dict[str, str | None]:
    """Installed version of each package in :data:`SUPPORTED`, ``None`` if it is missing."""
    found = {}
    for package in SUPPORTED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


@cache
def require_supported_versions() -> None:
    """Checks every package once in a process.

    Raises:
        UnsupportedVersionError: With the version found, the one required, and the command that mends it.
    """
    from packaging.specifiers import SpecifierSet

    for package, found in found_versions().items():
        required, reason = SUPPORTED[package]
        if found is None or not SpecifierSet(required, prereleases=True).contains(found):
            raise UnsupportedVersionError(
                f"Found {package} {found or '(not installed)'}, required {required} ({reason}). "
                f"Run: pip install '{package}{required}'"
            )
