# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import pytest
import yaml

from llamafactory_clinkd.webui.elements import ELEMENTS, RECIPE_KEYS
from llamafactory_clinkd.webui.presets import PACKAGE, PRESETS, preset_values
from llamafactory_clinkd.webui.recipe_keys import (
    check_keys,
    default_values,
    from_key,
    localise_problem,
    merge_into_extra_args,
    recipe_keys,
    split_extra_args,
    to_key,
)


def changed_value(name):
    """A value that the element does not have by default."""
    element = ELEMENTS[name]
    if element.kind == "choice":
        return next(choice for choice in element.choices if choice != element.default)
    if element.kind == "number":
        return element.default + 1
    return {
        "switch": not element.default,
        "phases": ["distill", "predict"],
        "datasets": ["a", "b"],
        "fraction": 0.25,
        "count": "7",
        "text": "some/path with space",
    }[element.kind]


@pytest.mark.parametrize("name", RECIPE_KEYS)
def test_every_element_survives_saving_and_loading(name):
    values = default_values() | {"use_clinkd": True}
    if name != "use_clinkd":
        values[name] = changed_value(name)
    text, restored = split_extra_args(merge_into_extra_args('{"optim": "adamw_torch"}', values))
    assert json.loads(text) == {"optim": "adamw_torch"}
    assert restored == values


@pytest.mark.parametrize("name", RECIPE_KEYS)
def test_key_and_element_are_inverse(name):
    key = to_key(name, changed_value(name))
    assert from_key(name, key) == changed_value(name)


def test_switched_off_leaves_no_trace():
    values = default_values() | {"kd_alpha": 2.0, "ref_model": "teacher"}
    assert merge_into_extra_args('{"optim": "sgd"}', values) == '{"optim": "sgd"}'
    assert recipe_keys(values) == {}


def test_stock_keys_of_others_stay_where_they_are():
    text = '{"ref_model": "for/dpo"}'
    assert split_extra_args(text) == (text, default_values())


def test_what_does_not_apply_is_saved_but_not_in_the_recipe():
    values = default_values() | {"use_clinkd": True, "rope_variant": "mrope", "mcg_alpha_h": 3}
    assert "mcg_alpha_h" not in recipe_keys(values)
    assert split_extra_args(merge_into_extra_args("{}", values))[1]["mcg_alpha_h"] == 3


def test_an_untouched_element_lets_a_saved_teacher_keep_its_positions():
    values = default_values() | {"use_clinkd": True}
    assert "teacher_rope_variant" not in recipe_keys(values)
    assert recipe_keys(values | {"teacher_rope_variant": "mcg"})["teacher_rope_variant"] == "mcg"


def test_phases_are_in_order():
    assert to_key("clinkd_phases", ["evaluate", "distill"]) == "distill,evaluate"


@pytest.mark.parametrize(
    "changes, message",
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
def test_bad_input_reaches_the_validator(changes, message):
    values = default_values() | {"use_clinkd": True} | changes
    with pytest.raises(ValueError, match=".") as error:
        check_keys(recipe_keys(values))
    assert message in str(error.value)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"demo"}))
def test_a_preset_has_the_keys_of_its_shipped_recipe_and_leaves_teacher_and_data(name):
    recipe = yaml.safe_load((PACKAGE / PRESETS[name]).read_text(encoding="utf-8"))
    values = {key.removeprefix("clinkd."): value for key, value in preset_values(name, {}).items()}
    assert not {"ref_model", "ref_model_quantization_bit", "eval_dataset"} & set(values)
    keys = recipe_keys(default_values() | values)
    expected = {key: value for key, value in recipe.items() if key in values and key in keys}
    assert expected.pop("clinkd_phases").replace(" ", "") == keys["clinkd_phases"]
    assert {key: keys[key] for key in expected} == expected and "kd_alpha" in expected
    check_keys(keys)


def test_problem_names_the_element_in_the_language_of_the_page():
    message = localise_problem("`kd_alpha: -1` is not allowed.", "ru")
    assert message == (
        "Конфигурация ClinKD некорректна (Вес дистилляции: Вес alpha слагаемого дистилляции (ур. 16), не меньше 0): "
        "`kd_alpha: -1` is not allowed."
    )
