# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The structures of the miniature: few and large ones, so that small models can learn them from one patient each.

The scans are those of ``volumes.py``. Its fine labels are kept, merged under one name, or dropped to background.

===========  ==========================================================================================
scan         structures
===========  ==========================================================================================
``brain_mr``  lobes of either side, cingulate gyri, insulae, deep nuclei, cerebellum, vermis (from AAL)
``body_ct``   organs, bones and muscles of abdomen and pelvis; vertebrae are one ``spine``
``body_mr``   organs of the upper abdomen; vertebrae and discs are one ``spine``
===========  ==========================================================================================
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..volumes import Volume, load_brain_mr, load_totalsegmentator


_BRAIN = {  # the first pattern found in a region's name (its side aside) gives the group
    r"vermis": "vermis",
    r"cerebellar": "cerebellum",
    r"insula": "insula",
    r"cingulate": "cingulate gyrus",
    r"caudate|putamen|pallidum|thalamus": "deep nuclei",
    r"hippocampus|parahippocampal|amygdala|temporal|heschl|fusiform": "temporal lobe",
    r"postcentral|parietal|supramarginal|angular gyrus|precuneus": "parietal lobe",
    r"calcarine|cuneus|lingual|occipital": "occipital lobe",
    r"frontal|precentral|orbital|operculum|motor|olfactory|rectus|paracentral": "frontal lobe",
}
_BODY = {
    r"vertebra|intervertebral": "spine",
    r"spleen|liver|stomach|gallbladder|pancreas|small bowel|colon|urinary bladder|sacrum|aorta": None,
    r"(left|right) (kidney|hip|femur|gluteus maximus|gluteus medius|deep back muscle|iliopsoas)": None,
}
_TOO_SMALL = {"body_ct": ("pancreas", "gallbladder", "aorta"), "body_mr": ("small bowel", "iliopsoas")}
_FIRST_STAGE = ("femur", "gluteus medius", "iliopsoas", "sacrum", "aorta", "pancreas", "gallbladder")


def group_of(key: str, name: str) -> str | None:
    """The name under which structure ``name`` of scan ``key`` is shown, or None where it is background."""
    if any(name.endswith(small) for small in _TOO_SMALL.get(key, ())):
        return None
    if key == "brain_mr":
        side = re.match(r"(left|right) ", name)
        stem = name[side.end() :] if side else name
        group = next((group for pattern, group in _BRAIN.items() if re.search(pattern, stem)), None)
        return f"{side[0]}{group}" if side and group else group
    for pattern, group in _BODY.items():
        if re.search(pattern, name):
            return group or name
    return None


def grouped(volume: Volume, stage: int = 2) -> Volume:
    """``volume`` with the labels of its groups, numbered in the order of their names; stage 2 drops seven more."""
    groups = {label: group_of(volume.key, name) for label, name in volume.names.items()}
    if stage == 2:
        groups = {label: group for label, group in groups.items() if not group or not group.endswith(_FIRST_STAGE)}
    present = set(np.unique(volume.labels).tolist())
    names = sorted({group for label, group in groups.items() if group and label in present})
    table = np.zeros(max([*volume.names, int(volume.labels.max())]) + 1, dtype=np.int16)
    for label, group in groups.items():
        if group in names:
            table[label] = names.index(group) + 1
    return replace(volume, labels=table[volume.labels], names=dict(enumerate(names, start=1)))


def load_volumes(archive: Path, stage: int = 2) -> list[Volume]:
    """The three scans with grouped structures; ``archive`` is the folder of ``fetch_totalsegmentator``."""
    return [grouped(volume, stage) for volume in (load_brain_mr(), *load_totalsegmentator(archive))]


def class_names(volumes: list[Volume]) -> list[str]:
    """Every structure's name, sorted: class 1 is the first; a name that two scans share is one class."""
    return sorted({name for volume in volumes for name in volume.names.values()})
