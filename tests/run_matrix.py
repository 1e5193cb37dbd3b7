# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Installs this package into fresh environments and runs the fast tests in each: a table with a line for each.

``make test-matrix MATRIX=FOLDER`` runs all of :data:`COMBINATIONS`. The folder lies outside of the checkout and needs
about 8 GB for each environment that is kept; without ``--keep`` there is one at a time.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
MAIN_COMMIT = "ff6d4d12eeb035d6ce06805a5733dd7b29f2ac30"
MAIN = f"git+https://github.com/hiyouga/LLaMA-Factory@{MAIN_COMMIT}"
COMBINATIONS = (  # Python, LLaMA-Factory, transformers
    ("3.11", "0.9.5", "5.6.0"),
    ("3.12", "0.9.5", "5.0.0"),
    ("3.13", "0.9.5", "5.2.0"),
    ("3.12", "main", "5.5.4"),
    ("3.11", "main", "5.7.0"),
    ("3.13", "main", "5.8.0"),
)
COLUMNS = ("Python", "LLaMA-Factory", "transformers", "torch", "date", "fast tests", "minutes", "`pip check`")


def main() -> int:
    """Runs the chosen combinations; the exit status is the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the environments, logs and table.md are written")
    parser.add_argument("--only", help="combinations such as 3.13/main/5.8.0, separated by commas")
    parser.add_argument("--main", default=MAIN, help=f"where LLaMA-Factory's main is, by default {MAIN}")
    parser.add_argument("--keep", action="store_true", help="keep the environments, and use those that are there")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="test files or folders")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if folder.is_relative_to(ROOT):
        parser.error(f"{folder} is inside the checkout {ROOT}: name a folder outside of it.")
    folder.mkdir(parents=True, exist_ok=True)
    chosen = arguments.only.split(",") if arguments.only else ["/".join(each) for each in COMBINATIONS]
    source = export_commit(folder / "source")
    wheel = build_wheel(source, folder / "wheel")
    failures = 0
    for name in chosen:
        line, passed = run_combination(folder, name, source, wheel, arguments)
        failures += not passed
        write_row(folder / "table.md", line)
        print(line, flush=True)
    return failures


def export_commit(folder: Path) -> Path:
    """The files of the checkout's last commit, without what lies around in the working tree."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return folder


def build_wheel(source: Path, folder: Path) -> Path:
    """The wheel that users install."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    if "llamafactory_clinkd/py.typed" not in zipfile.ZipFile(wheel).namelist():
        raise RuntimeError(f"{wheel} has no py.typed: type checkers would ignore the package's annotations.")
    return wheel


def run_combination(folder: Path, name: str, source: Path, wheel: Path, arguments) -> tuple[str, bool]:
    """Builds and tests one combination; returns its line of the table, and whether everything passed."""
    python, llamafactory, transformers = name.split("/")
    environment, log = folder / name.replace("/", "-"), folder / f"{name.replace('/', '-')}.log"
    start = time.monotonic()
    shown = [python, llamafactory + (f" `{MAIN_COMMIT[:9]}`" if llamafactory == "main" else ""), transformers]
    interpreter = shutil.which(f"python{python}")
    if interpreter is None or subprocess.run([interpreter, "-c", ""], capture_output=True).returncode:
        return table_line(*shown, "", today(), f"not run: python{python} is not installed", "", ""), False
    with log.open("w", encoding="utf-8") as output:
        try:
            checked = install(environment, interpreter, llamafactory, transformers, wheel, arguments.main, output)
        except subprocess.CalledProcessError as error:
            return table_line(*shown, "", today(), f"not installed: {error.cmd[-1]}, see {log.name}", "", ""), False
        command = [
            environment / "bin" / "python",
            "-P",  # imports the installed package, not that of the working folder
            "-m",
            "pytest",
            "-q",
            "-m",
            "not slow and not long",
            f"--basetemp={folder}/tmp",
        ]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
        done = subprocess.run(
            [*command, *arguments.tests], cwd=source, env=variables, stdout=output, stderr=subprocess.STDOUT
        )
    counts = re.findall(r"^\d+ \w+.* in [\d.]+s.*$", log.read_text(encoding="utf-8"), re.MULTILINE)
    result = counts[-1].partition(" in ")[0] if counts else f"pytest ended with {done.returncode}, see {log.name}"
    if arguments.tests != ["tests"]:
        result += f" of {' '.join(arguments.tests)}"
    torch = installed(environment).get("torch", "")
    if not arguments.keep:
        shutil.rmtree(environment)
    minutes = f"{(time.monotonic() - start) / 60:.0f}"
    return table_line(*shown, torch, today(), result, minutes, checked), done.returncode == 0 and checked == "clean"


def install(environment, interpreter, llamafactory, transformers, wheel, main, output) -> str:  # noqa: D417
    """Installs LLaMA-Factory as a user has it, then the wheel, which may change none of it; what `pip check` reports.

    Raises:
        CalledProcessError: If an installation fails, or the wheel would change an installed package.
    """
    python = environment / "bin" / "python"

    def pip(*words: str | Path, **more) -> subprocess.CompletedProcess:
        done = subprocess.run([python, "-m", "pip", *words], text=True, capture_output=True, **more)
        output.write(f"$ pip {' '.join(map(str, words))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}\n")
        output.flush()
        return done

    if not python.exists():
        subprocess.run([interpreter, "-m", "venv", environment], check=True)
        source = f"llamafactory=={llamafactory}" if llamafactory != "main" else f"llamafactory @ {main}"
        pip("install", "-q", "--upgrade", "pip", "setuptools>=69").check_returncode()
        pip("install", "-q", source, f"transformers=={transformers}", "torchvision").check_returncode()
    before = installed(environment)
    package = f"llamafactory-clinkd[sentence,clip,eval] @ {wheel.as_uri()}"  # as in the README
    plan = pip("install", "-q", "--dry-run", "--report", "-", package)
    plan.check_returncode()
    planned = {each["metadata"]["name"].lower() for each in json.loads(plan.stdout)["install"]}
    changed = sorted(planned & before.keys() - {"llamafactory-clinkd"})
    if changed:
        raise subprocess.CalledProcessError(1, ["pip", f"the wheel would change {', '.join(changed)}"])
    pip("install", "-q", f"llamafactory-clinkd[dev] @ {wheel.as_uri()}").check_returncode()
    pip("install", "-q", "--force-reinstall", "--no-deps", wheel).check_returncode()
    check = pip("check")
    return "clean" if check.returncode == 0 else "; ".join(check.stdout.strip().splitlines())


def installed(environment: Path) -> dict[str, str]:
    """Name in lower case -> version of every package of an environment."""
    command = [environment / "bin" / "python", "-m", "pip", "list", "--format=json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {each["name"].lower(): each["version"] for each in listed}


def today() -> str:
    """The date as YYYY-MM-DD."""
    return datetime.date.today().isoformat()


def table_line(*cells: str) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def write_row(table: Path, line: str) -> None:
    """Adds a line to the table, in place of an earlier one of the same combination."""
    rows = table.read_text(encoding="utf-8").splitlines()[2:] if table.exists() else []
    same = line.split("|")[1:4]
    rows = [row for row in rows if row.split("|")[1:4] != same] + [line]
    head = [table_line(*COLUMNS), "|---" * len(COLUMNS) + "|"]
    table.write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
