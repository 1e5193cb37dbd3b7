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

"""Progress bars of work in several parts, each of which has a bar from when it begins."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def bars_of_parts(console: "Console") -> Iterator[Callable[..., None]]:
    """Inside, the function that it gives shows how far a part is: (name, steps done, steps, note)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}")
    with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
        bars: dict[str, int] = {}

        def show(name: str, done: int, total: int, note: str = "") -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total, note=note)
            progress.update(bars[name], completed=done, note=note)

        yield show
