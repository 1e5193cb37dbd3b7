# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest
from miniature.baseline import mean_box_recall


def row(structure, box, task="VG", modality="mr"):
    fact = {"task": task, "modality": modality, "scan": "s", "plane": "axial", "structure": structure, "box": box}
    return fact | {"id": f"{structure} {box}"}


def test_means_are_by_structure_and_modalities_weigh_the_same():
    train = [
        row("liver", [0, 0, 100, 100]),
        row("liver", [20, 0, 120, 100], "ROC"),
        row("spleen", [500, 500, 600, 600], modality="ct"),
    ]
    test = [
        row("liver", [10, 0, 110, 100]),  # the mean itself
        row("liver", [500, 500, 600, 600]),  # elsewhere
        row("spleen", [500, 500, 600, 600], modality="ct"),
        row("liver", [10, 0, 110, 100], task="ROC"),  # not asked
    ]
    result = mean_box_recall(train + [{"task": "MIA", "modality": "x", "scan": "s"}], test)
    assert result["n"] == 3
    found = {name: (entry["value"], entry["n"]) for name, entry in result["modalities"].items()}
    assert found == {"ct": (1.0, 1), "mr": (0.5, 2)}
    assert result["macro"] == 0.75


def test_an_unseen_structure_gets_the_mean_of_all_boxes():
    train = [row("liver", [0, 0, 100, 100]), row("spleen", [200, 200, 300, 300])]
    assert mean_box_recall(train, [row("colon", [100, 100, 200, 200])])["macro"] == 1.0


def test_nothing_to_answer_is_an_error():
    with pytest.raises(ValueError, match="No test row"):
        mean_box_recall([row("liver", [0, 0, 1, 1])], [])
