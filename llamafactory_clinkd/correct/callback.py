# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reflective Correction as a trainer callback (section 3.3): between two rounds, bad answers become corrected rows."""

import logging
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


logger = logging.getLogger(__name__)


class ReflectiveCorrectionCallback(TrainerCallback):
    """Runs ``correct`` before every round but the first, on all ranks together.

    It happens at the *beginning* of a round, after the checkpoint that closes the one before: a run that dies in the
    middle of a correction resumes at that checkpoint and goes on with the correction, with nothing trained twice.

    Args:
        correct: Called with the number of the round that ended, 1 for the first; records, judges, corrects.
        flush: Called before a checkpoint counts the steps so far as done.
    """

    def __init__(self, correct: Callable[[int], None], flush: Callable[[], None] = lambda: None) -> None:
        self._correct = correct
        self._flush = flush

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Corrects what the round before left wrong."""
        ended = int(state.epoch or 0)
        if ended > 0:
            logger.info("Reflective Correction after round %d.", ended)
            self._correct(ended)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Flushes before every checkpoint."""
        if control.should_save:
            self._flush()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Closes a round with a checkpoint, unless the recipe keeps none."""
        self._flush()
        if str(args.save_strategy.value) != "no":
            control.should_save = True
