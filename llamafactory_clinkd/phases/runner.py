# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Runs the phases of a recipe: pseudo-labels, distillation, correction rounds, prediction, evaluation.

Each phase delegates to stock ``run_sft``, and its inputs are recorded in ``clinkd/state.json``. The same command skips
finished phases and continues the unfinished one.
"""

import gc
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import set_seed

from ..arguments import TRAINING_PHASES
from ..generation.shards import UnfinishedError
from ..kd.rollouts import ANSWER_FILES
from ..rope.saved_positions import with_saved_positions
from ..select import check_scorer
from ..utils.console import counted
from ..utils.io import content_hash
from ..utils.ranks import Ranks, Stopped
from .checkpoints import last_whole_checkpoint, remove_broken_checkpoints, remove_earlier_run, unsaved_state
from .context import Run
from .correct import check_correction
from .fingerprint import phase_inputs
from .recipe import RecipeArguments
from .state import ProcedureState, check_output_dirs, fault_of_resume, step_rows, trained_model
from .stock_sft import StockWorkflow
from .stopping import ABORTED, load_on_numbered_cpus, propagate_failure, stopped_by_signal
from .validation import check_data, check_recipe


logger = logging.getLogger(__name__)


def run_procedure(workflow: StockWorkflow, arguments: RecipeArguments, callbacks: list[Any]) -> None:
    """Runs the phases that the recipe chooses; ``callbacks`` are LLaMA-Factory's, ``ReporterCallback`` last.

    Raises:
        ValueError: If the recipe is incomplete, or changed since a training phase of the same ``output_dir`` ran.
        SystemExit: With 143 after SIGTERM, 130 after SIGINT.
    """
    load_on_numbered_cpus()
    freezes = not gc.get_freeze_count()  # what a caller froze stays so
    if freezes:
        gc.collect()
        gc.freeze()  # the million objects of imported libraries are not searched again at each collection, 0.3 s each
    ranks = Ranks.of_process_group(arguments.training.ddp_timeout)
    try:
        with stopped_by_signal(ranks), propagate_failure(ranks, Path(arguments.training.output_dir)):
            ranks.wait("the start of the run")
            ranks.require_shared(Path(arguments.training.output_dir))
            check_recipe(arguments)
            finetuning = with_saved_positions(arguments.model, arguments.finetuning)
            _run_phases(Run(workflow, arguments._replace(finetuning=finetuning), callbacks, ranks))
            ranks.wait("the end of the run")
    except Stopped as stop:
        reason = ranks.agreed_stop_reason()
        if not reason:
            raise RuntimeError(f"The run ended at {ranks.location} although no stop was requested: {stop}.") from stop
        _log(
            ranks,
            f"Stopped by {reason} at {ranks.location}: {str(stop).rstrip('.')}. The same command continues the run.",
        )
        if reason != ABORTED:
            raise SystemExit(128 + signal.Signals[reason]) from None
    finally:
        ranks.close()
        if freezes:
            gc.unfreeze()


def _run_phases(run: Run) -> None:
    ranks, arguments = run.ranks, run.recipe
    if "correct" in run.phases:
        check_correction(run.settings)
    if arguments.training.overwrite_output_dir and ranks.rank == 0:
        remove_earlier_run(run.output_dir, arguments)
    ranks.wait("the removal of old files")

    state = ProcedureState(run.folder, writes=ranks.rank == 0)
    check_output_dirs(run, state)
    previous, checked = None, False
    for number, phase in enumerate(run.phases, start=1):
        inputs = ranks.from_first(partial(_inputs, run, arguments, phase, previous), f"the inputs of phase {phase}")
        previous = content_hash(inputs)
        title = f"ClinKD phase {number}/{len(run.phases)}: {phase}"
        rows = step_rows(arguments.training, ranks.size)
        ranks.set_location(f"the checks before phase {phase}")
        if state.is_finished(phase, inputs, rows) and run.outputs_exist(state.phases[phase]["outputs"]):
            _log(ranks, f"{title} is finished already, skipped.")
        else:
            run.stop_if_requested(f"before phase {phase}")
            if "predict" in run.phases[number - 1 :]:  # before hours of training
                check_scorer(run.settings.sasg_scorer)
            if not checked:
                check_data(run, run.phases[number - 1 :])
                checked = True
            _run_phase(run, state, phase, inputs, title, _outline(arguments, phase))
        if phase in TRAINING_PHASES:
            run.model_folder = run.output_dir / (state.folder_of(phase) or "")
            if ranks.rank == 0:
                recorded = state.phases[phase].get("model")
                trained_model(run.model_folder, run.hashes, adapter=run.trains_adapter, recorded=recorded)
    if "evaluate" in run.phases and ranks.rank == 0:
        from ..report import build_report

        with ranks.long_running("the report"):
            report = build_report([run.output_dir], run.folder / "report.html")
        _log(ranks, f"Report: {report} (open it in a browser). Beside other runs: clinkd report {run.output_dir} RUN")
    else:
        _log(ranks, f"All phases are finished. Next: clinkd report {run.output_dir}")


def _outline(arguments: RecipeArguments, phase: str) -> str:
    """What a phase does, for its first line."""
    data, settings = arguments.data, arguments.finetuning
    teacher = settings.ref_model or arguments.model.model_name_or_path
    learns = "cross-entropy alone" if settings.kd_method == "none" else f"{settings.kd_method} from {teacher}"
    tests = ", ".join(data.eval_dataset or data.dataset or [])
    candidates = counted(settings.sasg_candidates, "candidate")
    rows = f"at most {settings.pseudo_label_samples:,} rows of {', '.join(data.dataset or [])}"
    return {
        "pseudo_label": f"{teacher} answers {rows}",
        "distill": f"{learns}, {counted(settings.kd_epochs, 'epoch')}",
        "correct": f"{counted(settings.correction_rounds, 'round')}, corrector {settings.corrector}",
        "predict": f"{candidates} a row of {tests}, ranked by {settings.sasg_scorer}",
        "evaluate": f"scores of the answers to {tests}",
    }[phase]


def _inputs(run: Run, arguments: RecipeArguments, phase: str, previous: str | None) -> dict[str, Any]:
    inputs = phase_inputs(phase, arguments, previous, run.hashes)
    run.hashes.save()
    return inputs


def _run_phase(
    run: Run, state: ProcedureState, phase: str, inputs: dict[str, Any], title: str, outline: str = ""
) -> None:
    """Runs and records one phase."""
    ranks, folder, rows = run.ranks, None, step_rows(run.recipe.training, run.ranks.size)
    run.resumes = state.was_started(phase, inputs)
    if phase in TRAINING_PHASES:
        folder = run.relative(run.folder_of(phase))
        if ranks.rank == 0:
            remove_broken_checkpoints(run.folder_of(phase), run.settings)
    ranks.phase = phase
    ranks.wait("start")
    if phase in TRAINING_PHASES and run.resumes:
        _check_resume(run, phase, state.phases[phase].get("step_rows"), rows)
    _log(ranks, f"{title} {'continues' if run.resumes else 'starts'}: {outline}.")
    state.start(phase, inputs, folder, rows)
    start = time.monotonic()
    with _time_of_failure(state, phase, start):
        set_seed(run.recipe.training.seed)
        if phase in TRAINING_PHASES:
            ranks.set_location("training")
        try:
            outputs = import_module(f".{phase}", __package__).run_phase(run)
        except UnfinishedError as stop:
            if not ranks.agreed_stop_reason():
                raise
            raise Stopped(str(stop)) from stop
        gc.collect()
        ranks.wait("end")
    ranks.phase = ""
    seconds = time.monotonic() - start
    model = None
    if phase in TRAINING_PHASES and ranks.rank == 0:
        model = trained_model(run.folder_of(phase), run.hashes, adapter=run.trains_adapter)
    state.finish(phase, outputs, seconds, model)
    saved = [run.folder_of(phase)] if folder else [run.output_dir / name for name in outputs]
    record = state.phases[phase]
    attempts = f" ({record['seconds']:.0f} s in {record['attempts']} attempts)" if record["attempts"] > 1 else ""
    _log(ranks, f"{title} finished in {seconds:.0f} s{attempts}, saved: {', '.join(map(str, saved))}")


@contextmanager
def _time_of_failure(state: ProcedureState, phase: str, start: float) -> Iterator[None]:
    """Records the time of an attempt that the block ends with an error or a stop."""
    try:
        yield
    except BaseException:
        try:
            state.interrupt(phase, time.monotonic() - start)
        except OSError as error:  # a full disk, whose first error is the one to show
            logger.warning("The time of this attempt is not recorded: %s", error)
        raise


def _check_resume(run: Run, phase: str, old: dict[str, int] | None, new: dict[str, int]) -> None:
    """Refuses a checkpoint of a training whose steps saw other rows; logs what else differs."""
    checkpoint = last_whole_checkpoint(run.folder_of(phase))
    if unsaved_state(run.settings) or checkpoint is None or old in (None, new):
        return
    fault = fault_of_resume(old, new, run.recipe)
    if any(checkpoint.glob(ANSWER_FILES)):
        fault = (
            f"{checkpoint} holds sampled answers for batches of {old}, found {new}. Continue with the former, or "
            "remove this checkpoint to continue from the one before it"
        )
    if fault is not None:
        raise ValueError(f"Phase `{phase}` cannot be continued: {fault}, or set `overwrite_output_dir: true`.")
    _log(
        run.ranks,
        f"Phase {phase} continues with {new} after {old}: each step sees the same rows. Random numbers (dropout, "
        "noise, sampled answers) are other ones from here on.",
    )


def _log(ranks: Ranks, message: str) -> None:
    if ranks.rank == 0:
        logger.info(message)
