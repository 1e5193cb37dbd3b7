# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""DeepSpeed for several trainings in one process.

LLaMA-Factory parses ``deepspeed:`` once, into a configuration whose "auto" values the first trainer fills in, and
accelerate takes one such plugin a process. Each phase has its own model, teacher and number of steps, so each gets a
configuration of its own. (FSDP keeps no state between trainers.)
"""

import functools
from typing import Any

import torch


@functools.cache
def load_on_numbered_cpus() -> None:
    """Lets ``torch.load`` put tensors on ``cpu:0``, where several processes without accelerators resume.

    The trainer loads an optimizer to its own device, which LLaMA-Factory numbers; torch (seen up to 2.14) knows
    ``cpu`` only and raises "don't know how to restore data location". A second call changes nothing.
    """
    torch.serialization.register_package(90, lambda storage: None, _on_numbered_cpu)


def _on_numbered_cpu(storage: Any, location: str) -> Any:
    return storage if location.startswith("cpu:") else None


def fresh_engine(training: Any) -> Any:
    """Gives a phase's copy of the training arguments an engine that no earlier phase has used; returns it.

    Args:
        training: ``TrainingArguments``, already a copy.
    """
    if not training.deepspeed:
        return training

    from accelerate.state import AcceleratorState
    from accelerate.utils import DeepSpeedPlugin
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    AcceleratorState._reset_state()  # the process group, which is `PartialState`'s, stays
    training.hf_deepspeed_config = HfTrainerDeepSpeedConfig(training.deepspeed)
    training.hf_deepspeed_config.trainer_config_process(training)
    training.deepspeed_plugin = DeepSpeedPlugin(hf_ds_config=training.hf_deepspeed_config)
    return training
