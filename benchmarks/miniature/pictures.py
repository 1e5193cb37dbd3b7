# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""X-ray, ultrasound and fundus pictures, without structures: they serve the text task (MIA) only.

There is one picture of each kind, so training and test see two disjoint parts of it, with a gap between.
"""

import importlib.resources
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Picture:
    """A picture of which only words are known.

    Attributes:
        key: Short name, unique.
        modality: Prefix of its image names.
        title: What a report calls it.
        shows: Structures that both of its parts show.
        image: float32 ``[H, W]`` or ``[H, W, 3]`` in [0, 1].
        cut_axis: The axis that separates the training part (low end) from the test part: 0 rows, 1 columns.
        source: The package and file that it comes from.
        licence: Its licence, as the package states it.
    """

    key: str
    modality: str
    title: str
    shows: tuple[str, ...]
    image: np.ndarray
    cut_axis: int
    source: str
    licence: str

    def part(self, split: str) -> np.ndarray:
        """The part for ``train`` (the first 54 %) or ``test`` (the last 40 %); the 6 % between are never shown."""
        size = self.image.shape[self.cut_axis]
        wanted = slice(0, round(0.54 * size)) if split == "train" else slice(round(0.60 * size), size)
        return self.image[wanted] if self.cut_axis == 0 else self.image[:, wanted]


# key, modality, title, what it shows, file, region of interest (top, bottom, left, right in parts of 1), cut axis.
# What they show is read off the files: body part, view and study in the header, else the words burned in.
_DICOM = (
    ("chest_x", "x", "frontal chest X-ray", ("ribs", "lungs"), "RG1_UNCR.dcm", (0, 1, 0, 1), 1),
    ("leg_x", "x", "frontal leg X-ray", ("tibia", "fibula"), "RG3_UNCR.dcm", (0, 0.8, 0.25, 0.72), 0),
    ("node_us", "ultrasound", "power Doppler ultrasound", ("lymph node",), "US1_UNCR.dcm", (0.24, 0.7, 0.02, 0.96), 1),
    ("heart_us", "ultrasound", "Doppler echocardiogram", ("heart", "blood flow"), "color-pl.dcm", (0, 1, 0, 1), 1),
)


def load_pictures() -> list[Picture]:
    """Loads the X-ray and ultrasound pictures of ``pydicom-data`` and the fundus picture of ``scikit-image``."""
    from PIL import Image

    pictures = [_load_dicom(*entry) for entry in _DICOM]
    with importlib.resources.as_file(importlib.resources.files("skimage") / "data" / "retina.jpg") as path:
        retina = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    pictures.append(
        Picture(
            key="retina",
            modality="fundus",
            title="color fundus photograph",
            shows=("retina", "retinal vessels"),
            image=retina,
            cut_axis=0,
            source="scikit-image: retina.jpg",
            licence="CC0 (docstring of skimage.data.retina)",
        )
    )
    return pictures


def _load_dicom(key, modality, title, shows, file, region, cut_axis) -> Picture:
    """Reads one file of ``pydicom-data``, uncompressed, and cuts the region of interest out of it."""
    import pydicom

    with importlib.resources.as_file(importlib.resources.files("data_store") / "data" / file) as path:
        data = pydicom.dcmread(path)
        pixels = data.pixel_array.astype(np.float32)
    if pixels.ndim == 2:
        low, high = np.percentile(pixels, (1, 99))
        pixels = np.clip((pixels - low) / (high - low), 0, 1)
    else:
        pixels = pixels / 255
    if data.PhotometricInterpretation == "MONOCHROME1":
        pixels = 1 - pixels

    height, width = pixels.shape[:2]
    top, bottom, left, right = region
    return Picture(
        key=key,
        modality=modality,
        title=title,
        shows=shows,
        image=pixels[round(top * height) : round(bottom * height), round(left * width) : round(right * width)],
        cut_axis=cut_axis,
        source=f"pydicom-data: {file}",
        licence="MIT",
    )
