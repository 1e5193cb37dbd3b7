# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import pytest

from llamafactory_clinkd.webui.elements import BOXES
from llamafactory_clinkd.webui.recipe_boxes import (
    RECIPE_KEYS,
    check_keys,
    default_values,
    fold,
    in_language,
    recipe_keys,
    to_box,
    to_key,
    unfold,
)


def changed_value(name):
    """A value that the box does not have by default."""
    box = BOXES[name]
    if box.kind == "choice":
        return next(choice for choice in box.choices if choice != box.default)
    if box.kind == "number":
        return box.default + 1
    return {
        "switch": not box.default,
        "phases": ["distill", "predict"],
        "datasets": ["a", "b"],
        "fraction": 0.25,
        "count": "7",
        "text": "some/path with space",
    }[box.kind]


@pytest.mark.parametrize("name", RECIPE_KEYS)
def test_every_box_survives_saving_and_loading(name):
    values = default_values() | {"use_clinkd": True}
    if name != "use_clinkd":
        values[name] = changed_value(name)
    text, restored = unfold(fold('{"optim": "adamw_torch"}', values))
    assert json.loads(text) == {"optim": "adamw_torch"}
    assert restored == values


@pytest.mark.parametrize("name", RECIPE_KEYS)
def test_key_and_box_are_inverse(name):
    key = to_key(name, changed_value(name))
    assert to_box(name, key) == changed_value(name)


def test_switched_off_leaves_no_trace():
    values = default_values() | {"kd_alpha": 2.0, "ref_model": "teacher"}
    assert fold('{"optim": "sgd"}', values) == '{"optim": "sgd"}'
    assert recipe_keys(values) == {}


def test_stock_keys_of_others_stay_where_they_are():
    text = '{"ref_model": "for/dpo"}'
    assert unfold(text) == (text, default_values())


def test_what_does_not_apply_is_saved_but_not_in_the_recipe():
    values = default_values() | {"use_clinkd": True, "rope_variant": "mrope", "mcg_alpha_h": 3}
    assert "mcg_alpha_h" not in recipe_keys(values)
    assert unfold(fold("{}", values))[1]["mcg_alpha_h"] == 3


def test_an_untouched_teacher_box_leaves_a_saved_teacher_its_own():
    values = default_values() | {"use_clinkd": True}
    assert "teacher_rope_variant" not in recipe_keys(values)
    assert recipe_keys(values | {"teacher_rope_variant": "mcg"})["teacher_rope_variant"] == "mcg"


def test_phases_stand_in_their_order():
    assert to_key("clinkd_phases", ["evaluate", "distill"]) == "distill,evaluate"


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"kd_alpha": None}, "`kd_alpha: None`"),
        ({"kd_temperature": 0}, "`kd_temperature: 0.0`"),
        ({"correction_max_samples": "many"}, "`correction_max_samples: many`"),
        ({"correction_max_samples": "0"}, "`correction_max_samples: 0`"),
        ({"correction_max_samples": "-4"}, "`correction_max_samples: -4`"),
        ({"mcg_alpha_h": 1.5}, "`mcg_alpha_h: 1.5`"),
        ({"rope_sections": "1,2"}, "`rope_sections: [1, 2]`"),
        ({"clinkd_phases": []}, "`clinkd_phases: []`"),
        ({"clinkd_phases": ["distill"], "pseudo_label_target": "pseudo_label"}, "`pseudo_label_target: pseudo_label`"),
    ],
)
def test_bad_input_reaches_the_validator(changes, says):
    values = default_values() | {"use_clinkd": True} | changes
    with pytest.raises(ValueError, match=".") as error:
        check_keys(recipe_keys(values))
    assert says in str(error.value)


def test_problem_names_the_box_in_the_language_of_the_page():
    message = in_language("`kd_alpha: -1` is not allowed.", "ru")
    assert message == (
        "Конфигурация ClinKD некорректна (Вес дистилляции: Вес alpha слагаемого дистилляции (ур. 16), не меньше 0): "
        "`kd_alpha: -1` is not allowed."
    )
