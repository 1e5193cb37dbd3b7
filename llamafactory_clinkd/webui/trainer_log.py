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
