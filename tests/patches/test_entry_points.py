# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The patch in ``patches``, on a copy of the installed LLaMA-Factory (or of ``CLINKD_LLAMAFACTORY_SOURCE``)."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import losses, recipe, write_recipe


PATCH = Path(__file__).resolve().parents[2] / "patches" / "entry_points.patch"
INSTALLED = Path(importlib.util.find_spec("llamafactory").submodule_search_locations[0])
OTHER = "CLINKD_LLAMAFACTORY_SOURCE"
HARDENED = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


@pytest.fixture(scope="module", params=["installed", "checkout"])
def source(request, tmp_path_factory):
    """A folder with an unpatched ``src/llamafactory``."""
    folder = tmp_path_factory.mktemp(request.param)
    package = INSTALLED
    if request.param == "checkout":
        if OTHER not in os.environ:
            pytest.skip(f"{OTHER} does not name a checkout of LLaMA-Factory to test the patch on as well")
        package = Path(os.environ[OTHER]) / "src" / "llamafactory"
    shutil.copytree(package, folder / "src" / "llamafactory", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def patched(source):
    """The same folder with the patch applied."""
    git_apply(source)
    return source


def git_apply(folder: Path, *options: str) -> None:
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(
        ["git", "apply", *options, str(PATCH)], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def run_python(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    """Runs Python with the copy of LLaMA-Factory before the installed one."""
    full = {**os.environ, "OMP_NUM_THREADS": "1", "DISABLE_VERSION_CHECK": "1", **env}
    full["PYTHONPATH"] = str(folder / "src")
    return subprocess.run(
        [sys.executable, *arguments], env=full, capture_output=True, text=True, timeout=600, cwd=folder
    )


def git_blob(path: Path) -> str:
    """The name that git gives a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def test_patch_was_made_from_the_installed_file():
    before, after = re.search(r"^index ([0-9a-f]{40})\.\.([0-9a-f]{40})", PATCH.read_text(), re.MULTILINE).groups()
    assert git_blob(INSTALLED / "__init__.py") in (before, after)


def test_patch_is_small_and_names_no_plugin():
    added = [line for line in PATCH.read_text().splitlines() if re.match(r"\+(?!\+\+)", line)]
    assert len(added) == 14 and "clinkd" not in PATCH.read_text()


def test_undone_is_the_same_file(tmp_path):
    (tmp_path / "src" / "llamafactory").mkdir(parents=True)
    copy = Path(shutil.copy(INSTALLED / "__init__.py", tmp_path / "src" / "llamafactory"))
    before = copy.read_bytes()
    git_apply(tmp_path)
    changed = copy.read_bytes()
    git_apply(tmp_path, "-R")
    assert copy.read_bytes() == before != changed


@pytest.mark.slow
def test_recipe_runs_with_autoload_disabled(patched, workspace, tmp_path):
    """The control, the same process with ``DISABLE_PLUGINS=1``, does not know ClinKD's keys."""
    path = write_recipe(tmp_path / "recipe.yaml", recipe(workspace, tmp_path / "out"))
    train = ("-m", "llamafactory.cli", "train", str(path))
    without = run_python(patched, *train, **HARDENED, DISABLE_PLUGINS="1")
    assert without.returncode != 0 and "use_clinkd" in without.stderr, without.stderr[-2000:]

    done = run_python(patched, *train, **HARDENED)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ClinKD phase 1/1: distill finished" in done.stdout + done.stderr
    assert len(losses(tmp_path / "out")) == 2


REPORT = """
import json, llamafactory, llamafactory.train.tuner, llamafactory.train.sft.workflow as workflow
import llamafactory.hparams.parser as parser, llamafactory_clinkd.attach as attach
first = workflow.run_sft
attach.autoload()
seams = attach.status()["seams"]
print(json.dumps({
    "file": llamafactory.__file__,
    "sft": seams["llamafactory.train.sft.workflow"],
    "parser": seams["llamafactory.hparams.parser"],
    "wrapped": hasattr(first, "__wrapped__"),
    "twice": hasattr(first.__wrapped__, "__wrapped__") or workflow.run_sft is not first,
    "groups": sum("use_clinkd" in c.__dataclass_fields__ for c in parser._TRAIN_ARGS),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    ["", pytest.param("import torch\n", marks=pytest.mark.long), "from llamafactory.train.sft import run_sft\n"],
)
@pytest.mark.parametrize(
    "env",
    [pytest.param(HARDENED, id="autoload-off"), pytest.param({}, id="both-ways", marks=pytest.mark.long)],
)
def test_attached_once_by_either_way_and_by_both(patched, first, env):
    done = run_python(patched, "-c", first + REPORT, **env)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found.pop("file")).is_relative_to(patched)
    assert found == {"sft": "patched", "parser": "patched", "wrapped": True, "twice": False, "groups": 1}
