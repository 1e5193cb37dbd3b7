# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The procedure: teacher pseudo-labels, distillation, correction rounds, prediction, evaluation, in one command.

Each phase delegates to stock ``run_sft``. What a phase ran with is recorded in ``clinkd/state.json``; the same command
skips finished phases and continues the unfinished one.
"""

import gc
import logging
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import set_seed

from ..arguments import PHASES, TRAINING_PHASES
from ..generation.shards import UnfinishedError
from ..rope.saved_positions import with_saved_positions
from ..select import check_scorer
from ..utils.ranks import Ranks, Stopped
from .checkpoints import remove_broken_checkpoints
from .context import Run
from .correct import check_correction
from .distributed import ABORTED, load_on_numbered_cpus, propagate_failure, stopped_by_sigterm
from .fingerprint import inputs_hash, phase_inputs
from .output_dirs import check_output_dirs
from .state import ProcedureState, Stopwatch
from .validation import check_recipe


logger = logging.getLogger(__name__)

SIGTERM_CODE = 128 + 15


def run_procedure(workflow: Any, arguments: Any, callbacks: list[Any]) -> None:
    """Runs the phases that the recipe chose.

    Args:
        workflow: A ``StockWorkflow``.
        arguments: The recipe, a ``RecipeArguments``.
        callbacks: LLaMA-Factory's callbacks, ``ReporterCallback`` last.

    Raises:
        ValueError: If the recipe is incomplete, or changed since a training phase of the same ``output_dir`` ran.
        SystemExit: With 143, after SIGTERM.
    """
    load_on_numbered_cpus()
    output_dir = Path(arguments.training.output_dir)
    ranks = Ranks.of_process_group(arguments.training.ddp_timeout)
    try:
        with stopped_by_sigterm(ranks), propagate_failure(ranks, output_dir):
            ranks.wait("the start")
            _run_phases(workflow, arguments, callbacks, output_dir, ranks)
            ranks.wait("the end")
    except Stopped as stop:
        reason = ranks.agreed_stop_reason()
        _say(ranks, f"Stopped by {reason} at {ranks.location}: {stop}. The same command continues the run.")
        if reason != ABORTED:
            raise SystemExit(SIGTERM_CODE) from None
    finally:
        ranks.close()


def _run_phases(workflow: Any, arguments: Any, callbacks: list[Any], output_dir: Path, ranks: Ranks) -> None:
    check_recipe(arguments)
    arguments = arguments._replace(finetuning=with_saved_positions(arguments.model, arguments.finetuning))
    if "correct" in arguments.finetuning.clinkd_phases:
        check_correction(arguments.finetuning)
    if arguments.training.overwrite_output_dir and ranks.rank == 0:
        for path in (output_dir / "clinkd", *output_dir.glob("checkpoint-*")):
            shutil.rmtree(path, ignore_errors=False) if path.is_dir() else None
    ranks.wait("the old files")

    state = ProcedureState(output_dir / "clinkd", writes=ranks.rank == 0)
    chosen = [phase for phase in PHASES if phase in arguments.finetuning.clinkd_phases]
    run = Run(workflow, arguments, callbacks, output_dir, chosen, ranks)
    check_output_dirs(run, state)
    previous = None
    for number, phase in enumerate(chosen, start=1):
        inputs = phase_inputs(phase, arguments, previous)
        previous = inputs_hash(inputs)
        title = f"ClinKD phase {number}/{len(chosen)}: {phase}"
        trains = phase in TRAINING_PHASES
        if state.is_finished(phase, inputs) and run.outputs_exist(state.phases[phase]["outputs"]):
            _say(ranks, f"{title} is finished already, skipped.")
        else:
            run.leave_if_asked(f"before phase {phase}")
            if "predict" in chosen[number - 1 :]:  # before the hours of training that come first
                check_scorer(arguments.finetuning.sasg_scorer)
            run.resumes = state.was_started(phase, inputs)
            if trains and ranks.rank == 0:
                remove_broken_checkpoints(run.folder_of(phase))
            ranks.phase = phase
            ranks.wait("the start")
            _say(ranks, f"{title} {'continues' if run.resumes else 'starts'}.")
            state.start(phase, inputs, run.relative(run.folder_of(phase)) if trains else None)
            watch = Stopwatch()
            set_seed(arguments.training.seed)
            outputs = _outputs_of(phase, run)
            gc.collect()
            ranks.wait("the end")
            ranks.phase = ""
            state.finish(phase, outputs, watch.seconds())
            _say(ranks, f"{title} finished in {watch.seconds():.0f} s.")
        if trains:
            run.model_folder = output_dir / (state.folder_of(phase) or "")
    if "evaluate" in chosen and ranks.rank == 0:
        from ..report import build_report

        with ranks.long_running("the report"):
            _say(ranks, f"Report: {build_report([output_dir], output_dir / 'clinkd' / 'report.html')}")


def _outputs_of(phase: str, run: Run) -> list[str]:
    """Runs a phase, whose libraries load with it; a generation that was stopped early is a stop."""
    try:
        return import_module(f".{phase}", __package__).run_phase(run)
    except UnfinishedError as stop:
        raise Stopped(str(stop)) from stop


def _say(ranks: Ranks, message: str) -> None:
    if ranks.rank == 0:
        logger.info(message)
