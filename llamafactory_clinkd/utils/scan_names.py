# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The volume and the patient that the name of an image encodes, and the names under which data sets list modalities.

SA-Med2D-20M, from which Med-GRIT-270k draws its images, names a slice
``<modality>_<sequence>--<data set>--<case>--<axis>_<slice>.png``, for instance
``ct_00--AMOS2022--amos_0001--x_0020.png``, and an image that is not part of a volume ``...--2d_none.png``.
"""

import re
from pathlib import PurePosixPath


_EXTENSIONS = re.compile(r"(?:\.(?:png|jpe?g|bmp|gif|tiff?|webp|dcm|dicom|nii|nii\.gz)|--stored)+$", re.IGNORECASE)
_HASHED = {kind: re.compile(rf"--({kind}-[0-9a-f]{{16}})--") for kind in ("series", "patient")}  # see `data.dicom`
_SLICE = re.compile(r"--([xyz]_(?:\d+|middle)|2d_none)(?:--\d+_\d+)?$", re.IGNORECASE)
_FRAME = re.compile(r"[-_]frame[-_]?\d+$", re.IGNORECASE)

_NAMES = {  # of the eight modalities
    "ct": "cta cect ncct ldct hrct cbct ctscan chestct computedtomography computerizedtomography ctimaging",
    "mr": "mri mra fmri cmr t1 t2 flair t1w t2w mrscan mriscan magneticresonance magneticresonanceimaging brainmri",
    "x": "xray xr cxr dx cr dr chestxray chestxr xrayradiography radiograph radiography plainfilm plainradiograph "
    "mammogram mammography",
    "pet": "petct fdgpet positronemissiontomography",
    "endoscopy": "endoscopic endoscope colonoscopy gastroscopy capsuleendoscopy laparoscopy",
    "dermoscopy": "dermoscopic dermatoscopy dermatoscopic",
    "fundus": "cfp fundusphotography fundusphotograph colorfundusphotography colourfundusphotography fundusimage "
    "retinalfundus funduscopy fundoscopy",
    "ultrasound": "us usg ultrasonography ultrasonic ultrasoundscan sonography sonogram echocardiography bus ivus",
}
_MODALITY_OF = {name: modality for modality, names in _NAMES.items() for name in (modality, *names.split())}


def volume_of(image: str) -> str | None:
    """The volume of which an image is a slice, or None if its name does not encode one (or is ``2d_none``).

    With the four fields of SA-Med2D (a mask number may follow) the volume is ``<data set>--<case>`` in lower case:
    folder, modality, sequence and a trailing ``_frame01`` do not count, so T1 and FLAIR of one brain, PET and CT of
    one examination and the phases of one heart are one volume. With fewer fields, as in the names that
    ``scan_to_png`` writes, it is the path up to ``--<axis>_<slice>``, or the hash of the DICOM series in the name.
    """
    if match := _HASHED["series"].search(image):
        return match[1]
    path = _EXTENSIONS.sub("", image.replace("\\", "/"))
    match = _SLICE.search(path)
    if not match or match[1].lower() == "2d_none":
        return None
    path = path[: match.start()]
    fields = PurePosixPath(path).name.split("--")
    if len(fields) < 3:
        return path.lower()
    return f"{fields[1]}--{_FRAME.sub('', _EXTENSIONS.sub('', '--'.join(fields[2:])))}".lower()


def bare_names(image: str) -> set[str]:
    """The names of an image that an id may have: without the extension, or without those that `convert` adds too."""
    path = PurePosixPath(image)
    return {path.stem, _EXTENSIONS.sub("", path.name)}


def patient_of(image: str) -> str | None:
    """The hashed patient in the name of a DICOM slice, else the case of SA-Med2D's four fields, else None."""
    if match := _HASHED["patient"].search(image):
        return match[1]
    return volume_of(image) if PurePosixPath(image).name.count("--") >= 3 and "--series-" not in image else None


def standard_modality(name: str) -> str | None:
    """The one of the eight modalities that a name means, whatever its case, blanks and hyphens; None for any other.

    Only whole names are known: ``optical coherence tomography`` is none of the eight.
    """
    return _MODALITY_OF.get("".join(character for character in name.lower() if character.isalnum()))
