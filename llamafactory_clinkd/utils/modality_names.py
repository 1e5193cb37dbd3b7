# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The names under which data sets list the eight modalities: ``MRI``, ``X-Ray``, ``us``, ``colonoscopy``, ..."""

_NAMES = {
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


def standard_modality(name: str) -> str | None:
    """The one of the eight modalities that a name means, whatever its case, blanks and hyphens; None for any other.

    Only whole names are known: ``optical coherence tomography`` is none of the eight.
    """
    return _MODALITY_OF.get("".join(character for character in name.lower() if character.isalnum()))
