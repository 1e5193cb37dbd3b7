# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest

from llamafactory_clinkd.correct.clinical_wording import in_one_form


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.5cm x 1.7cm x 1.6cm", "25 mm x 17 mm x 16 mm"),
        ("1.5 x 1.8 cm", "15 mm x 18 mm"),
        ("2 x 3 x 4 cm", "20 mm x 30 mm x 40 mm"),
        ("3-5 mm", "3 mm to 5 mm"),
        ("between 0.1 and 0.2 milliliters", "between 0.1 ml and 0.2 ml"),
        ("½ cm and 1½ cm", "5 mm and 15 mm"),
        ("1/2 of the lung", "0.5 of the lung"),
        ("2,5 cm of 1,200 mm", "25 mm of 1200 mm"),
        ("40 l or 3 cc", "40000 ml or 3 ml"),
        ("50 µm", "0.05 mm"),
        ("-5 to 5", "minus 5 to 5"),
        (">5 cm", "more than 50 mm"),
        ("≥2", "at least 2"),
        ("two nodules, the first rib", "2 nodules, the 1st rib"),
        ("Grade II lesion, CN III", "Grade 2 lesion, CN 3"),
        ("CT with IV contrast", "CT with IV contrast"),
        ("L4-L5, T2, 3 T, 100 HU", "L4-L5, T2, 3 T, 100 HU"),
        ("2 feet, 3 rods, 12 ribs, 5 masses", "2 feet, 3 rods, 12 ribs, 5 masses"),
        ("4th ventricle", "4th ventricle"),
        ("50-year-old", "50 year-old"),
        ("1/0 and 0/3", "1/0 and 0"),
        ("", ""),
    ],
)
def test_one_form(text, expected):
    assert " ".join(in_one_form(text).split()) == expected
