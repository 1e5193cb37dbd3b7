# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0


import pytest

from llamafactory_clinkd.evaluate.mean_box import mean_box_baseline, structure_of


def row(question, box, image="mr_1.png", **more):
    return {"question": question, "annotation": f"<box>{box}</box>", "image": image, **more}


LIVER, SPLEEN = "Where is the liver located in the image?", "Where is the spleen located in the image?"


@pytest.mark.parametrize(
    ("question", "structure"),
    [
        (LIVER, "liver"),
        ("Can you locate the Left Hip in this picture?", "left hip"),
        ("Give the bounding box of <ref>the left lung</ref>.", "the left lung"),
        ("Find <|object_ref_start|>Aorta<|object_ref_end|>", "aorta"),
    ],
)
def test_structure(question, structure):
    assert structure_of(question) == structure


def test_mean_box_of_each_structure():
    train = [
        row(LIVER, "(0,0),(100,100)"),
        row(LIVER, "(20,0),(120,100)"),
        row(SPLEEN, "(800,800),(900,900)"),
        {"question": "What is it?", "annotation": "a liver", "image": "mr_2.png"},
    ]
    test = [row(LIVER, "(10,0),(110,100)"), row(SPLEEN, "(0,0),(50,50)"), row("Where is the heart?", "(0,0),(9,9)")]
    found = mean_box_baseline(train, test)
    assert found["macro"] == pytest.approx(1 / 3)
    assert (found["n"], found["keys"], found["fallback"]) == (3, 2, 1)


def test_planes_and_modalities_are_kept_apart():
    train = [
        row(LIVER, "(0,0),(100,100)", "mr_axial_1.png"),
        row(LIVER, "(500,500),(600,600)", "mr_coronal_1.png"),
        row(LIVER, "(700,0),(800,100)", "ct_1.png", plane="axial"),
    ]
    found = mean_box_baseline(train, train)
    assert found["macro"] == 1
    assert (found["keys"], found["fallback"]) == (3, 0)
    assert set(found["modalities"]) == {"mr", "ct"}


def test_fallback_is_the_mean_of_all_training_boxes():
    train = [row(LIVER, "(0,0),(100,100)"), row(SPLEEN, "(100,100),(200,200)")]
    found = mean_box_baseline(train, [row("Where is the heart?", "(50,50),(150,150)")])
    assert (found["macro"], found["fallback"]) == (1, 1)


def test_errors():
    talk = [{"question": "What is it?", "annotation": "a liver", "image": "mr_1.png"}]
    with pytest.raises(ValueError, match="no mean box"):
        mean_box_baseline(talk, [row(LIVER, "(0,0),(1,1)")])
    with pytest.raises(ValueError, match="nothing to ground"):
        mean_box_baseline([row(LIVER, "(0,0),(1,1)")], talk)
