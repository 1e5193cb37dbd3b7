# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Run folders that the report's tests share, each made once."""

from pathlib import Path

import pytest

from llamafactory_clinkd.evaluate import captions

from .run_folder import make_run


@pytest.fixture(scope="module", autouse=True)
def without_java():
    """Runs are compared without MIA: METEOR starts Java several times. tests/evaluate compares captions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captions, "java_command", lambda: None)
        yield


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory) -> Path:
    """A whole run; tests must not write to it."""
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="session")
def sweep_dirs(run_dir) -> list[Path]:
    """Three runs over the same questions that differ in ``kd_alpha`` alone."""
    others = [("weak", 0.4, 0.1), ("strong", 0.8, 1.0)]
    return [run_dir, *(make_run(run_dir.parent / name, skill=skill, kd_alpha=alpha) for name, skill, alpha in others)]


@pytest.fixture(scope="session")
def page(run_dir, tmp_path_factory) -> str:
    """The report about :func:`run_dir`."""
    from llamafactory_clinkd.report import build_report

    return build_report([run_dir], tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")
