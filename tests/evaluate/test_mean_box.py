# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest

from llamafactory_clinkd.evaluate.blind import mean_box_baseline, mean_box_from_facts, structure_of


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


def fact(structure, box, task="VG", modality="mr"):
    values = {"task": task, "modality": modality, "scan": "s", "plane": "axial", "structure": structure, "box": box}
    return values | {"id": f"{structure} {box}"}


def test_means_are_by_structure_and_modalities_weigh_the_same():
    train = [
        fact("liver", [0, 0, 100, 100]),
        fact("liver", [20, 0, 120, 100], "ROC"),
        fact("spleen", [500, 500, 600, 600], modality="ct"),
    ]
    test = [
        fact("liver", [10, 0, 110, 100]),  # the mean itself
        fact("liver", [500, 500, 600, 600]),  # elsewhere
        fact("spleen", [500, 500, 600, 600], modality="ct"),
        fact("liver", [10, 0, 110, 100], task="ROC"),  # not asked
    ]
    result = mean_box_from_facts(train + [{"task": "MIA", "modality": "x", "scan": "s"}], test)
    assert result["n"] == 3
    found = {name: (entry["value"], entry["n"]) for name, entry in result["modalities"].items()}
    assert found == {"ct": (1.0, 1), "mr": (0.5, 2)}
    assert result["macro"] == 0.75


def test_an_unseen_structure_gets_the_mean_of_all_boxes():
    train = [fact("liver", [0, 0, 100, 100]), fact("spleen", [200, 200, 300, 300])]
    assert mean_box_from_facts(train, [fact("colon", [100, 100, 200, 200])])["macro"] == 1.0


def test_nothing_to_answer_is_an_error():
    with pytest.raises(ValueError, match="No test row"):
        mean_box_from_facts([fact("liver", [0, 0, 1, 1])], [])
