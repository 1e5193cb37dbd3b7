# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Where training phases have written: the last one of a recipe into ``output_dir``, the others into ``clinkd/``.

So the same phase has another folder after ``clinkd_phases`` changed: a model is taken from where it is, and no phase
writes over another's model or continues from another's checkpoints.
"""

from pathlib import Path

from ..arguments import TRAINING_PHASES
from .checkpoints import checkpoints_in
from .context import Run
from .state import ProcedureState


def check_output_dirs(run: Run, state: ProcedureState) -> None:
    """Checks every training phase of the recipe before the first phase starts.

    Raises:
        ValueError: If a phase was trained in ``output_dir`` and another one would now write there, if a phase that is
            not finished has its checkpoints in another folder, or if a folder holds checkpoints of another run.
    """
    for phase in run.phases:
        if phase not in TRAINING_PHASES:
            continue
        folder, recorded = run.folder_of(phase), state.folder_of(phase)
        if phase not in state.phases:
            _check_no_checkpoints(phase, folder)
        elif recorded is not None and run.output_dir / recorded != folder:
            _check_moved(run, state, phase, recorded)


def _check_moved(run: Run, state: ProcedureState, phase: str, recorded: str) -> None:
    """A phase that was in another folder under other ``clinkd_phases``: its model may be used, not more."""
    there, record = run.output_dir / recorded, state.phases[phase]
    phases, advice = ", ".join(run.phases), "or set `overwrite_output_dir: true` to start over"
    if record["status"] != "finished" or not run.outputs_exist(record["outputs"]):
        raise ValueError(
            f"Phase `{phase}` was started in {there}; with `clinkd_phases: {phases}` it belongs in "
            f"{run.folder_of(phase)}. Change `clinkd_phases` back, choose a new `output_dir`, {advice}."
        )
    if there == run.output_dir:
        later = run.phases[run.phases.index(phase) + 1 :]
        key = "adapter_name_or_path" if (there / "adapter_config.json").is_file() else "model_name_or_path"
        raise ValueError(
            f"Phase `{phase}` finished in {there} as the last training phase of its recipe; with `clinkd_phases: "
            f"{phases}` another model would be written over it. Go on from it with `clinkd_phases: "
            f"{', '.join(later)}`, `{key}: {there}` and a new `output_dir`, {advice}."
        )


def _check_no_checkpoints(phase: str, folder: Path) -> None:
    found = checkpoints_in(folder)
    if found:
        raise ValueError(
            f"{found[-1]} is of another run: phase `{phase}` would go on from it after an interruption. Choose a new "
            "`output_dir`, or set `overwrite_output_dir: true`."
        )
