# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

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

from accelerate import PartialState
from transformers import set_seed

from ..arguments import PHASES, TRAINING_PHASES
from .checks import check_recipe
from .corrector import recipe_corrector
from .inputs import inputs_hash, phase_inputs
from .run import Run
from .state import ProcedureState, Stopwatch


logger = logging.getLogger(__name__)


def run_procedure(workflow: Any, arguments: Any, callbacks: list[Any]) -> None:
    """Runs the phases that the recipe chose.

    Args:
        workflow: A ``StockWorkflow``.
        arguments: The recipe, a ``RecipeArguments``.
        callbacks: LLaMA-Factory's callbacks, ``ReporterCallback`` last.

    Raises:
        ValueError: If the recipe is incomplete, or changed since a training phase of the same ``output_dir`` ran.
    """
    processes = PartialState()
    processes.wait_for_everyone()
    output_dir = Path(arguments.training.output_dir)
    check_recipe(arguments)
    if "correct" in arguments.finetuning.clinkd_phases:
        recipe_corrector(arguments.finetuning)  # a missing key or a forbidden server is told before the first phase
    if arguments.training.overwrite_output_dir and processes.is_main_process:
        for path in (output_dir / "clinkd", *output_dir.glob("checkpoint-*")):
            shutil.rmtree(path, ignore_errors=False) if path.is_dir() else None
    processes.wait_for_everyone()

    state = ProcedureState(output_dir / "clinkd", writes=processes.is_main_process)
    chosen = [phase for phase in PHASES if phase in arguments.finetuning.clinkd_phases]
    run = Run(workflow, arguments, callbacks, output_dir, chosen)
    previous = None
    for number, phase in enumerate(chosen, start=1):
        inputs = phase_inputs(phase, arguments, previous)
        previous = inputs_hash(inputs)
        title = f"ClinKD phase {number}/{len(chosen)}: {phase}"
        if state.is_finished(phase, inputs) and run.outputs_exist(state.phases[phase]["outputs"]):
            _say(processes, f"{title} is finished already, skipped.")
        else:
            run.resumes = state.was_started(phase, inputs)
            processes.wait_for_everyone()
            _say(processes, f"{title} {'continues' if run.resumes else 'starts'}.")
            state.start(phase, inputs)
            watch = Stopwatch()
            set_seed(arguments.training.seed)
            outputs = import_module(f".{phase}", __name__).run_phase(run)  # a phase's libraries load with it
            gc.collect()
            if run.was_aborted():
                _say(processes, f"{title} was stopped; the same command continues it.")
                return
            state.finish(phase, outputs, watch.seconds())
            _say(processes, f"{title} finished in {watch.seconds():.0f} s.")
        if phase in TRAINING_PHASES:
            run.model_folder = run.folder_of(phase)
    if "evaluate" in chosen and processes.is_main_process:
        from ..report import build_report

        _say(processes, f"Report: {build_report([output_dir], output_dir / 'clinkd' / 'report.html')}")
    processes.wait_for_everyone()


def _say(processes: PartialState, message: str) -> None:
    if processes.is_main_process:
        logger.info(message)
