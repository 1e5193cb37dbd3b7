# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest

from llamafactory_clinkd.utils.scan_names import volume_of


@pytest.mark.parametrize(
    ("image", "volume"),
    [
        ("ct_00--AMOS2022--amos_0001--x_0020.png", "amos2022--amos_0001"),
        ("images/mr_t1--BraTS2021--BraTS2021_00218--z_0141.png", "brats2021--brats2021_00218"),
        ("mr_flair--BraTS2021--BraTS2021_00218--y_0001.jpg", "brats2021--brats2021_00218"),
        ("mr_00--ACDC--patient018_frame01--x_0000.png", "acdc--patient018"),
        ("mr_00--ACDC--patient018_frame12--x_0003.png", "acdc--patient018"),
        ("ct_00--AbdomenCT1K--Case_00011--x_0041--0000_001.png", "abdomenct1k--case_00011"),
        ("ct_00--set--a--b.c--x_0001", "set--a--b.c"),
        ("x_ray--covid_19_ct_cxr--16660_5_1--2d_none.png", None),
        ("clinkd_png/a/brain--z_0040.png", "clinkd_png/a/brain"),
        ("clinkd_png/a/brain--z_middle.png", "clinkd_png/a/brain"),
        ("synpic54610.jpg", None),
        ("xmlab1/source.jpg", None),
        ("a--b.png", None),
    ],
)
def test_volumes(image, volume):
    assert volume_of(image) == volume
