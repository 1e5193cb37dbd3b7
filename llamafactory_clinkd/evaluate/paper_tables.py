# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Tables 1, 2 and 3 of the ClinKD paper, in percent, transcribed as printed; a dash is None.

``tests/evaluate`` lists the three averages that are not the mean of their own row.
"""

import re

from ..utils.boxes import MODALITIES


TASK_METRICS = {"VG": "Recall@0.5", "ROC": "Recall", "RC": "SPICE", "MIA": "mBMR"}
MED_GRIT, QA = "Med-GRIT-Test30k", "LLaVA-Med-qa0.2k"

# VG, ROC, RC, MIA, average
TABLE_1 = {
    (MED_GRIT, "LLaVA-Med"): (0.0, 2.75, 8.18, 11.20, 5.53),
    (MED_GRIT, "BiRD"): (53.92, 65.33, 55.23, 52.17, 56.66),
    (MED_GRIT, "ClinKD"): (67.51, 82.35, 70.56, 65.69, 71.53),
    (QA, "LLaVA-Med"): (None, None, None, 20.04, None),
    (QA, "BiRD"): (None, None, None, 10.55, None),
    (QA, "ClinKD"): (None, None, None, 13.24, None),
}

# (model, MCG-RoPE, Pseudo-KD, SASG): as in table 1
TABLE_2 = {
    ("Qwen2-VL", False, False, False): (55.43, 68.33, 57.39, 62.23, 61.37),
    ("BiRD", False, False, False): (53.92, 65.33, 55.23, 52.17, 56.66),
    ("BiRD", True, False, False): (64.03, 72.74, 61.32, 59.63, 64.44),
    ("BiRD", False, True, False): (66.33, 79.52, 67.21, 64.32, 69.35),
    ("BiRD", False, False, True): (55.89, 67.84, 54.32, 51.27, 57.33),
    ("ClinKD", True, True, True): (67.51, 82.35, 70.56, 65.69, 71.53),
}

# Means in CT, MR, X-ray, PET, endoscopy, dermoscopy, fundus, ultrasound, and their average. The paper prints a spread
# with each (0.10 to 0.30) but does not define it.
_TABLE_3 = """
VG      BiRD                44.47  29.26  41.73  56.46  53.60  75.63  84.15  46.04  53.92
VG      BiRD + RoPE-Mixed   46.90  53.11  42.03  60.84  53.49  78.25  85.16  52.83  59.08
VG      BiRD + MCG-RoPE     51.22  49.40  45.92  68.60  60.37  88.28  86.59  61.88  64.03
VG      BiRD + VkD          58.77  50.95  45.69  65.89  57.63  93.32  79.27  59.90  63.93
VG      BiRD + Pseudo-KD    62.59  52.86  47.19  66.28  59.84  93.68  85.37  62.87  66.33
VG      ClinKD              65.52  52.23  48.56  69.25  60.37  94.22  86.59  64.47  67.51
ROC     BiRD                34.76  61.79  53.74      -  60.40  96.61      -  84.65  65.33
ROC     BiRD + RoPE-Mixed   39.78  62.13  74.27      -  61.33  96.61      -  84.65  69.80
ROC     BiRD + MCG-RoPE     44.47  64.20  83.75      -  62.19  96.61      -  85.22  72.74
ROC     BiRD + VkD          53.19  69.10  90.84      -  61.71 100.00      -  81.15  76.00
ROC     BiRD + Pseudo-KD    58.47  69.92  95.83      -  66.32 100.00      -  86.58  79.52
ROC     ClinKD              61.42  71.30  97.00      -  68.84 100.00      -  95.54  82.35
RC      BiRD                41.88  51.69  37.39  47.95  54.07  77.44  48.73  82.65  55.23
RC      BiRD + RoPE-Mixed   43.51  51.88  54.61  52.83  54.07  68.15  53.99  65.28  55.54
RC      BiRD + MCG-RoPE     50.73  53.11  60.33  70.16  54.07  70.18  61.52  70.46  61.32
RC      BiRD + VkD          51.33  54.39  62.83  74.31  54.07  76.23  67.89  72.15  64.15
RC      BiRD + Pseudo-KD    52.78  58.41  70.39  75.85  55.22  81.34  71.54  72.15  67.21
RC      ClinKD              53.94  58.41  71.47  79.91  52.10  83.92  84.51  80.19  70.56
MIA     BiRD                47.01  49.35  37.17  57.15  39.91  72.13  48.87  65.78  52.17
MIA     BiRD + RoPE-Mixed   57.10  50.89  42.55  69.28  41.63  73.32  59.63  61.80  57.03
MIA     BiRD + MCG-RoPE     60.53  53.77  54.10  62.01  43.88  75.33  62.89  64.53  59.63
MIA     BiRD + VkD          62.33  53.77  52.27  62.01  47.29  75.33  68.04  70.31  61.42
MIA     BiRD + Pseudo-KD    66.85  55.73  52.27  64.74  50.58  78.21  70.02  76.16  64.32
MIA     ClinKD              66.85  56.82  54.01  67.08  50.58  81.00  70.02  76.05  65.69
Average BiRD                43.03  48.02  42.51  53.85  51.99  80.45  60.58  69.78      -
Average BiRD + RoPE-Mixed   46.82  54.50  53.37  60.98  52.63  79.08  66.26  66.14      -
Average BiRD + MCG-RoPE     51.74  55.12  61.03  66.92  55.13  82.60  70.33  70.52      -
Average BiRD + VkD          56.41  57.05  62.91  67.40  55.18  86.22  71.73  70.88      -
Average BiRD + Pseudo-KD    60.17  59.23  66.42  68.96  57.99  88.31  75.64  74.44      -
Average ClinKD              61.93  59.69  67.76  72.08  57.97  89.79  80.37  79.06      -
"""

TABLE_3: dict[str, dict[str, dict[str, float | None]]] = {}
"""Task or ``Average`` -> method -> modality or ``average`` -> value."""
for _task, _method, _values in re.findall(r"(\w+) +(\S.*?) {2,}(.*)", _TABLE_3):
    _scores = (None if value == "-" else float(value) for value in _values.split())
    TABLE_3.setdefault(_task, {})[_method] = dict(zip((*MODALITIES, "average"), _scores, strict=True))
