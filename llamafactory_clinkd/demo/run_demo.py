# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd demo``: the whole procedure with the miniature models and the CT questions that this package ships.

The student starts from a generalist that has seen brain and abdominal MR, the teacher has seen the CT as well. Their
cards are ``models/*/README.md``; ``benchmarks/miniature`` draws the data and trains the models.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from ..arguments import PHASES
from ..attention import attention_figure
from ..evaluate import evaluate_file
from ..evaluate.java import kept_meteor
from ..evaluate.score_table import format_percent
from ..report import build_report
from ..utils.boxes import TASKS
from ..utils.console import WholeTable, bars_of_parts, console, quiet_libraries
from ..utils.environment import POLL_SECONDS, cli_command, run_logged
from ..utils.io import file_sha256, read_json, write_json
from ..webui.run_progress import progress_of


HERE = Path(__file__).parent
RECIPE = HERE / "clinkd_demo.yaml"
SELECT_NOTHING = {"sasg_candidates": 1, "sasg_scorer": "logprob"}
QUICK_CHANGES = {"kd_epochs": 2, "pseudo_label_samples": 300, "correction_rounds": 1, **SELECT_NOTHING}
RUNS = ("before (base)", "after distillation", "after selection")  # the stages that are runs
BLIND_ROWS = "1,320 rows of demo_train, with the structure and box of each (facts_train.jsonl)"
ONLY_PREDICT = {"clinkd_phases": "predict", **SELECT_NOTHING}
ANSWERS = {"pseudo_label": 1320, "predict": 440}  # rows of the data, for the progress bars


@kept_meteor()
def run_demo(directory: Path, *, quick: bool) -> None:
    """Runs the procedure, or the rest of it, and prints the scores; RuntimeError if training fails."""
    check_assets()
    console.print(
        f"ClinKD with miniature models on two CPU cores: about {'90 seconds' if quick else '4 minutes'}. "
        f"{'Answers are ranked by log-probability, without CLIP. ' if quick else ''}"
        f"LLaMA-Factory's output goes to {directory}/*.log."
    )
    start = time.monotonic()
    before, run, distilled = directory / "before", directory / "run", directory / "distilled"
    stop = threading.Event()

    def is_finished(phase: str) -> bool:  # False if the demo ends before
        while progress_of(run, list(PHASES)).finished <= PHASES.index(phase):
            if stop.wait(POLL_SECONDS):
                return False
        return True

    def predict(folder: Path, title: str, model: Path) -> None:
        _train(folder, show, title, {"model_name_or_path": model, **ONLY_PREDICT}, stop)
        write_json(folder / "clinkd" / "metrics.json", evaluate_file(folder / "clinkd" / "predictions.jsonl"))

    def beside_the_procedure() -> None:  # on the other core
        predict(before, "before: predict with the base model", HERE / "models" / "base")
        if is_finished("distill"):
            predict(distilled, "after distillation: predict", run / "clinkd" / "distill")
        if not quick and is_finished("correct"):
            models = {"base": HERE / "models" / "base", "after ClinKD": run}
            _draw_attention(models, run / "clinkd" / "attention", partial(show, "attention maps"))

    with bars_of_parts(console) as show, ThreadPoolExecutor(2) as pool:
        # A second thread shortens the long training of the full demo. It only waits while the predictions run.
        changes, threads = (QUICK_CHANGES, 1) if quick else ({}, 2)
        procedure = pool.submit(_train, run, show, "", changes, stop, threads)
        try:
            for future in as_completed([procedure, pool.submit(beside_the_procedure)]):
                future.result()
        finally:
            stop.set()
    stages = _stages(before, distilled, run)
    console.print(_score_table(stages))
    report = _report(before, distilled, run, stages)
    first, last = (
        {task: f"{100 * stages[name][task]['macro']:.1f}" for task in TASKS} for name in (RUNS[0], RUNS[-1])
    )
    scores = ", ".join(f"{task} {first[task]} -> {last[task]}" for task in TASKS)
    console.print(f"\n{scores} in {time.monotonic() - start:.0f} s. Report: {report.resolve()} (open it in a browser)")
    console.print(f"Talk to the trained model: clinkd demo --chat --directory {directory}", soft_wrap=True)


def check_assets() -> None:
    """Compares the shipped models with their SHA-256; RuntimeError if a file is missing or differs."""
    for name, sha256 in read_json(HERE / "models" / "sha256.json").items():
        path = HERE / "models" / name
        if not path.is_file() or file_sha256(path) != sha256:
            raise RuntimeError(f"{path} is missing or damaged: its SHA-256 is not {sha256}. Reinstall the package.")


def _train(
    output_dir: Path,
    show: Callable[..., None],
    title: str,
    changes: dict[str, Any],
    stop: threading.Event,
    threads: int = 1,
) -> None:
    """Runs the recipe with ``changes``; shows a bar under ``title``, or one for each phase."""
    models = HERE / "models"
    keys = {
        "model_name_or_path": models / "base",
        "ref_model": models / "teacher",
        "sasg_scorer": models / "scorer",
        "dataset_dir": HERE / "data",
        "output_dir": output_dir,
        **changes,
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    log = output_dir.with_suffix(".log")
    command = cli_command("train", RECIPE, *(f"{key}={value}" for key, value in keys.items()))
    phases = str(changes.get("clinkd_phases", ",".join(PHASES))).split(",")

    def on_poll() -> None:
        if stop.is_set():
            raise InterruptedError(f"{output_dir} is incomplete. Rerun to resume.")
        _show_progress(output_dir, phases, show, title)

    with open(log, "ab") as file:
        code = run_logged(command, file, on_poll, OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", str(threads)))
    if code != 0:
        raise RuntimeError(f"Training ended with code {code}; see the end of {log}. Rerun to resume.")
    _show_progress(output_dir, phases, show, title)


def _show_progress(output_dir: Path, phases: list[str], show: Callable[..., None], title: str) -> None:
    progress = progress_of(output_dir, phases)
    if title:
        show(title, round(progress.percentage), 100)
        return
    for number, phase in enumerate(phases[: progress.finished + 1], start=1):
        is_finished = number <= progress.finished
        fraction = progress.fraction if progress.answers is None else progress.answers / ANSWERS.get(phase, 1e9)
        percent = 100 if is_finished else min(round(100 * fraction), 100)
        show(f"phase {number}/{len(phases)}: {phase}", percent, 100)


def _stages(before: Path, distilled: Path, run: Path) -> dict[str, dict[str, Any]]:
    """Stage -> task -> its entry of ``metrics.json``."""
    metrics = read_json(run / "clinkd" / "metrics.json")
    selected, worth = metrics["tasks"], metrics.get("selection", {})
    first = {task: {"macro": worth[task]["first"]["value"], "ci": worth[task]["first"]["ci"]} for task in worth}
    return {
        "before (base)": read_json(before / "clinkd" / "metrics.json")["tasks"],
        "the teacher": read_json(HERE / "models" / "teacher_scores.json")["tasks"],
        "after distillation": read_json(distilled / "clinkd" / "metrics.json")["tasks"],
        "after correction": first or selected,  # without several candidates nothing is selected
        "after selection": selected,
        "blind answers": read_json(HERE / "data" / "blind.json"),
    }


def _draw_attention(models: dict[str, Path], folder: Path, show: Callable[[int, int], None]) -> None:
    """Draws where each model looks while it answers the first grounding question of the test set."""
    show(0, 1)
    row = next(row for row in read_json(HERE / "data" / "demo_test.json") if row["task"] == "VG")
    question = row["messages"][0]["content"].replace("<image>", "")
    with quiet_libraries(logging.WARNING):
        attention_figure(list(models.items()), HERE / "data" / row["images"][0], question, folder / f"{row['id']}.png")
    show(1, 1)


def _report(before: Path, distilled: Path, run: Path, stages: dict[str, dict[str, Any]]) -> Path:
    """Writes what the table has and the runs have not into ``metrics.json``, and the page about all three runs."""
    blind = {f"blind_{task}": stages["blind answers"][task] | {"task": task} for task in TASKS}
    earlier: dict[str, Any] = {}  # without a run, up to the folder's own
    for name, entry in stages.items():
        folder = dict(zip(RUNS, (before, distilled, run), strict=True)).get(name)
        if folder is not None:
            path = folder / "clinkd" / "metrics.json"
            extra = {"baselines": blind, "baselines_from": BLIND_ROWS, "stages": dict(earlier)}
            write_json(path, {**read_json(path), **extra})
        elif name != "blind answers":
            earlier[name] = entry
    return build_report([before, distilled, run], run / "clinkd" / "report.html", names=RUNS)


def _score_table(stages: dict[str, dict[str, Any]]) -> WholeTable:
    metrics = {task: stages["after selection"][task]["metric"] for task in TASKS}
    table = WholeTable("", *(f"{task}\n{metrics[task]}" for task in TASKS), title="Scores in %, with 95 % intervals")
    for stage, tasks in stages.items():
        cells = []
        for task in TASKS:
            low, high = tasks[task]["ci"]
            cells.append(f"{format_percent(100 * tasks[task]['macro'], 1)} [{100 * low:.0f}, {100 * high:.0f}]")
        table.add_row(stage, *cells)
    table.caption = "The teacher and the blind answers, which use no image, were scored when the models were built."
    return table
