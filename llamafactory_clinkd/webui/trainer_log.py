# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The parts of a distillation loss in LLaMA-Factory's ``trainer_log.jsonl``, whose callback writes known keys only."""

import functools
from collections.abc import Callable
from typing import Any


PARTS = ("ce", "kl", "vkd", "teacher_agreement", "teacher_entropy", "aux_loss")


def noting_parts(stock: Callable[..., None]) -> Callable[..., None]:
    """``LogCallback.on_log`` that notes the parts of the loss by step before stock writes its line."""

    @functools.wraps(stock)
    def on_log(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        entry = state.log_history[-1] if state.log_history else {}
        parts = {name: entry[name] for name in PARTS if name in entry}
        if parts:
            self.__dict__.setdefault("_clinkd_parts", {})[state.global_step] = parts
        return stock(self, args, state, control, **kwargs)

    return on_log


def writing_parts(stock: Callable[..., None]) -> Callable[..., None]:
    """``LogCallback._write_log``, which runs later in a thread of its own, that adds the noted parts."""

    @functools.wraps(stock)
    def _write_log(self: Any, output_dir: str, logs: dict[str, Any]) -> None:
        noted = self.__dict__.get("_clinkd_parts", {})
        return stock(self, output_dir, logs | noted.pop(logs.get("current_steps"), {}))

    return _write_log
