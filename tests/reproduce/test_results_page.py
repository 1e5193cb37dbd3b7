# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""docs/results.md shows what the committed results say, and those are of the recipes as they are now."""

import re
from pathlib import Path

from llamafactory_clinkd.reproduce.prepare import benchmark_of
from llamafactory_clinkd.reproduce.run import plan_runs
from llamafactory_clinkd.reproduce.table import markdown
from llamafactory_clinkd.reproduce.table_rows import SEEDS, rows_of
from llamafactory_clinkd.reproduce.write import collect
from llamafactory_clinkd.utils.io import read_json


DOCS = Path(__file__).resolve().parents[2] / "docs"
FOLDER = DOCS / "results" / "mini"


def page():
    return (DOCS / "results.md").read_text(encoding="utf-8")


def tables_of_the_page():
    found = re.findall(r"^### (Table|Figure) (\d), mini scale$", page(), flags=re.MULTILINE)
    return [f"{kind.lower()}{number}" for kind, number in found]


def plans_of(*tables):
    rows = {row.name: row for table in tables for row in rows_of(table, "mini")}
    return plan_runs(rows.values(), SEEDS, "mini", benchmark_of("mini"))


def test_results_are_of_the_present_recipes_and_the_page_names_the_runs_that_are_missing():
    plans = plans_of(*tables_of_the_page())
    found = collect(plans, [FOLDER])
    assert sum(map(len, found.values())) == len(list(FOLDER.glob("*.json"))), "recipes changed: run the table anew"
    missing = [plan.name for plan in plans if plan.seed not in found.get(plan.row.name, {})]
    said = f"Missing: {', '.join(f'`{name}`' for name in missing)}." if missing else "No run is missing."
    assert said in " ".join(page().split())


def test_all_runs_started_from_one_build_of_data_and_models():
    inputs = [read_json(path)["inputs"] for path in sorted(FOLDER.glob("*.json"))]
    build = {name: sha256 for found in inputs for name, sha256 in found.items()}
    assert build.keys() >= {"demo_train.json", "demo_test.json", "models/base", "models/teacher", "models/scorer"}
    assert all(found and found.items() <= build.items() for found in inputs)


def test_the_page_has_the_tables_that_the_results_make():
    assert set(tables_of_the_page()) == {"table1", "table2", "table3", "figure4"}
    for table in tables_of_the_page():
        made = markdown(table, "mini", collect(plans_of(table), [FOLDER]))
        assert made in page(), f"{table} is not of these results"


def test_no_result_names_a_path_of_the_machine_it_was_made_on():
    for path in FOLDER.glob("*.json"):
        assert not re.search(r'"/|[A-Z]:\\\\', path.read_text(encoding="utf-8")), path.name
