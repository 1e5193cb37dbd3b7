# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The pages of docs/ agree with the code, and their links lead somewhere."""

import re
import sys
from pathlib import Path

import pytest
from clinkd_commands import problem_of


ROOT = Path(__file__).resolve().parents[1]
TOP = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")]
PAGES = [*TOP, ROOT / "examples" / "reproduce" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:clinkd|llamafactory-cli) .*")
sys.path.append(str(ROOT / "docs"))


def test_the_page_of_keys_is_that_of_the_dataclass():
    from write_configuration import PAGE, configuration_page

    assert PAGE.read_text(encoding="utf-8") == configuration_page(), "run python docs/write_configuration.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_of_the_package_and_the_tests_exist(page):
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"`((?:llamafactory_clinkd|tests|benchmarks|examples|docs)/[\w./-]+)`", text)
    assert not [name for name in names if not (ROOT / name).exists()]


def test_the_page_of_commands_is_that_of_the_application():
    from write_commands import PAGE, commands_page

    assert PAGE.read_text(encoding="utf-8") == commands_page(), "run python docs/write_commands.py"


def commands_in(text):
    """The commands of a page: lines of its code blocks, and code in its text."""
    blocks = re.findall(r"^```(?:bash|text)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [line for line in (*lines, *inline) if COMMAND.match(line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page):
    problems = [problem_of(line, named=True) for line in commands_in(page.read_text(encoding="utf-8"))]
    assert not [problem for problem in problems if problem]


def test_a_command_that_does_not_exist_is_found():
    text = "```bash\nclinkd data chek FILE\n```\n`clinkd doctor --plans RECIPE`, `clinkd report`, `clinkd doctor`"
    assert [bool(problem_of(line, named=True)) for line in commands_in(text)] == [True, True, False, False]


def test_the_page_of_functions_lists_what_is_public():
    from write_functions import PAGE, functions_page

    assert PAGE.read_text(encoding="utf-8") == functions_page(), "run python docs/write_functions.py"


def test_the_table_of_gpus_in_the_readme_is_what_the_plan_says():
    from write_hardware import README, hardware_table

    assert hardware_table() in README.read_text(encoding="utf-8"), "run python docs/write_hardware.py"


def test_the_first_row_of_that_table_is_the_recipe_that_init_writes():
    from write_hardware import BASE, MACHINES, ROWS

    from llamafactory_clinkd.doctor.new_recipe import FIXED, _settings
    from llamafactory_clinkd.doctor.plan import make_plan
    from llamafactory_clinkd.utils.gpus import GPUS

    name, gpus, _, keys = MACHINES[0]
    models = {key: keys[key] for key in ("model_name_or_path", "ref_model")}
    card, plans = GPUS[name], []
    written = FIXED | models | _settings(FIXED | models, gpus, card, False)[0]
    for recipe in (written, BASE | keys):
        plan = make_plan(recipe, gpus=gpus, gib=card.gib, gpu=card, rows=ROWS)
        plans.append((plan["memory"]["distill"], plan["seconds"]))
    assert plans[0] == plans[1]


def test_headings_of_the_troubleshooting_page_are_words_of_messages():
    """The words between the dots stand in the package, or in what LLaMA-Factory, CUDA and shells print."""
    elsewhere = ("Some specified arguments", "CUDA out of memory", "command not found", "A rank that waits")
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "llamafactory_clinkd").rglob("*.py"))
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for heading in re.findall(r"^## (.+)$", page, re.MULTILINE):
        if not any(words in heading for words in elsewhere):
            parts = [part.strip(" `") for part in re.split(r"\.\.\.", heading)]
            assert all(part in source for part in parts), heading
