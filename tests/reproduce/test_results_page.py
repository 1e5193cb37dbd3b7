# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""docs/results.md shows the committed results, of the recipes as they are now and of an earlier miniature."""

import re
from pathlib import Path

import pytest

from llamafactory_clinkd.reproduce.prepare import benchmark_of
from llamafactory_clinkd.reproduce.run import plan_runs
from llamafactory_clinkd.reproduce.table import markdown
from llamafactory_clinkd.reproduce.table_rows import rows_of
from llamafactory_clinkd.reproduce.write import collect
from llamafactory_clinkd.utils.io import read_json


DOCS = Path(__file__).resolve().parents[2] / "docs"
TABLES = ("table2", "on_policy")
FOLDER, EARLIER = DOCS / "results" / "mini", DOCS / "results" / "mini_0_1"


def page():
    return (DOCS / "results.md").read_text(encoding="utf-8")


def collected(table):
    return collect(plan_runs(rows_of(table, "mini"), (1, 2, 3), "mini", benchmark_of("mini")), [FOLDER])


def test_results_are_of_the_present_recipes_and_models():
    found = {(row, seed) for table in TABLES for row, seeds in collected(table).items() for seed in seeds}
    assert len(found) == len(list(FOLDER.glob("*.json"))) > 0


@pytest.mark.parametrize("table", TABLES)
def test_the_page_has_the_table_that_the_results_make(table):
    assert markdown(table, "mini", collected(table)).strip() in page()


def test_the_earlier_table_2_is_that_of_its_results():
    for path in sorted(EARLIER.glob("*-seed1.json")):
        row = read_json(path)["row"]
        found = [read_json(each)["metrics"]["tasks"]["VG"]["macro"] for each in EARLIER.glob(f"{row}-seed?.json")]
        if len(found) == 3:
            assert f"{100 * sum(found) / 3:.2f} ± " in page(), row


def test_no_result_names_a_path_of_the_machine_it_was_made_on():
    for path in [*FOLDER.glob("*.json"), *EARLIER.glob("*.json")]:
        assert not re.search(r'"/|[A-Z]:\\\\', path.read_text(encoding="utf-8")), path.name
