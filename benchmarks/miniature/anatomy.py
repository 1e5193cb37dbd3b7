# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The names of structures: what the atlases call them, and what a report calls them."""

import re


# Order matters: the first rule whose pattern is found rewrites the whole stem. AAL: Tzourio-Mazoyer et al., 2002.
_AAL = {
    r"Frontal_Sup_Medial": "medial superior frontal gyrus",
    r"Frontal_Med_Orb": "medial orbital gyrus",
    r"Frontal_Sup_Orb": "superior orbital gyrus",
    r"Frontal_Mid_Orb": "middle orbital gyrus",
    r"Frontal_Inf_Orb": "inferior orbital gyrus",
    r"Frontal_Inf_Oper": "frontal operculum",
    r"Frontal_Inf_Tri": "triangular frontal gyrus",
    r"Rolandic_Oper": "rolandic operculum",
    r"Supp_Motor_Area": "supplementary motor area",
    r"Temporal_Pole_(Sup|Mid)": r"\1 temporal pole",
    r"(Frontal|Temporal|Occipital)_(Sup|Mid|Inf)": r"\2 \1 gyrus",
    r"Parietal_(Sup|Inf)": r"\1 parietal lobule",
    r"Cingulum_(Ant|Mid|Post)": r"\1 cingulate gyrus",
    r"Cerebelum_Crus(\d)": r"cerebellar crus \1",
    r"Cerebelum_(\d+b?)(?:_(\d+))?": r"cerebellar lobule \1 \2",
    r"Vermis_(\d+)(?:_(\d+))?": r"vermis lobule \1 \2",
    r"Olfactory": "olfactory cortex",
    r"Calcarine": "calcarine cortex",
    r"Insula": "insula",
    r"Rectus": "gyrus rectus",
    r"Heschl": "heschl gyrus",
    r"Caudate": "caudate nucleus",
    r"ParaHippocampal": "parahippocampal gyrus",
    r"SupraMarginal": "supramarginal gyrus",
    r"(Precentral|Postcentral|Fusiform|Lingual|Angular)": r"\1 gyrus",
}
_AAL_SHORT = {"Sup": "superior", "Mid": "middle", "Inf": "inferior", "Ant": "anterior", "Post": "posterior"}
_SIDES = {"L": "left", "R": "right"}

_TOTALSEGMENTATOR = {
    "autochthon": "deep back muscle",
    "iliac_vena": "iliac vein",
    "portal_vein_and_splenic_vein": "portal and splenic vein",
    "vertebrae": "vertebra",
}


def aal_name(label: str) -> str:
    """``Frontal_Sup_L`` -> ``left superior frontal gyrus``; a label without a rule keeps its own words."""
    stem, side = re.fullmatch(r"(.+?)(?:_([LR]))?", label).groups()
    for pattern, words in _AAL.items():
        if match := re.fullmatch(pattern, stem):
            stem = match.expand(words)
            break
    words = [_AAL_SHORT.get(word, word.lower()) for word in stem.replace("_", " ").split()]
    name = re.sub(r"(\d) (\d)", r"\1-\2", " ".join(words))
    return f"{_SIDES[side]} {name}" if side else name


def totalsegmentator_name(label: str) -> str:
    """``kidney_left`` -> ``left kidney``, ``rib_left_7`` -> ``left rib 7``, ``vertebrae_L5`` -> ``vertebra l5``."""
    for old, new in _TOTALSEGMENTATOR.items():
        label = label.replace(old, new)
    words = label.lower().replace("_", " ").split()
    sides = [word for word in words if word in ("left", "right")]
    return " ".join(sides + [word for word in words if word not in ("left", "right")])
