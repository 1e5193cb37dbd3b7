# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Every key, given every value that YAML can make of a slip of the pen, is refused by name at the start."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Literal, get_args, get_origin

import pytest

from llamafactory_clinkd.arguments import OPTIONAL, PARSED, RANGES, ClinkdArguments
from llamafactory_clinkd.utils.value_checks import did_you_mean, require_finite


INF, NAN = float("inf"), float("nan")
NUMBERS = sorted(key for keys in RANGES for key in keys)
WRONG_NUMBERS = (INF, -INF, NAN, 1e30, -1, -0.5, 10**400, "2", "warm", True, [1], {"a": 1})


def check(**keys):
    arguments = ClinkdArguments(use_clinkd=True, clinkd_phases="correct", **keys)
    arguments.check_clinkd()
    return arguments


def test_every_number_of_the_group_has_a_range():
    kinds = {item.name: set(get_args(item.type) or (item.type,)) for item in fields(ClinkdArguments)}
    numbers = [name for name, kind in kinds.items() if kind & {int, float}]
    assert sorted(numbers) == NUMBERS


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers(key):
    for value in WRONG_NUMBERS if key in OPTIONAL else (*WRONG_NUMBERS, None):
        with pytest.raises(ValueError, match=f"`{key}: .*is not allowed. Expected"):
            check(**{key: value})


@pytest.mark.parametrize("value", [0, 1.5])
def test_counts_are_integers_and_stay_so(value):
    with pytest.raises(ValueError, match="Expected an integer >= 1"):
        check(correction_rounds=value)
    rounds = check(correction_rounds=2.0).correction_rounds
    assert rounds == 2 and isinstance(rounds, int)


OTHERS = [item for item in fields(ClinkdArguments) if item.name not in (*NUMBERS, *PARSED, "use_clinkd")]


@pytest.mark.parametrize("item", OTHERS, ids=lambda item: item.name)
def test_switches_texts_and_choices(item):
    optional = item.default is None  # a parser that has read the field takes None out of its type
    for value in ("false", 1, None) if item.type is bool else (1, 2.5, True, ["a"], *([] if optional else [None])):
        with pytest.raises(ValueError, match=f"`{item.name}: .*is not allowed. Expected"):
            check(**{item.name: value})
    if get_origin(item.type) is Literal:
        choice = max(get_args(item.type), key=len)
        with pytest.raises(ValueError, match=f"Did you mean `{choice}`"):
            check(**{item.name: choice[:-1]})


def test_a_text_where_a_switch_belongs_is_not_taken_for_true():
    with pytest.raises(ValueError, match="`use_clinkd: 'false'` is not allowed. Expected true or false"):
        ClinkdArguments(use_clinkd="false", clinkd_phases="correct").check_clinkd()


def test_a_misspelt_phase():
    with pytest.raises(ValueError, match="Did you mean `distill`"):
        ClinkdArguments(use_clinkd=True, clinkd_phases="distil").check_clinkd()


def test_numbers_of_other_groups_are_finite():
    require_finite([SimpleNamespace(learning_rate=1e-4, max_grad_norm=INF, name="inf", steps=10**400)])
    for key, value in (("learning_rate", NAN), ("weight_decay", INF), ("max_grad_norm", NAN)):
        with pytest.raises(ValueError, match=f"`{key}: {value}` is not allowed. Expected a finite number"):
            require_finite([SimpleNamespace(a=1), SimpleNamespace(**{key: value})])


def test_only_a_close_name_is_suggested():
    assert did_you_mean("kd_alhpa", ["kd_alpha", "kd_epochs"]) == " Did you mean `kd_alpha`?"
    assert did_you_mean("something_else", ["kd_alpha", "kd_epochs"]) == ""
