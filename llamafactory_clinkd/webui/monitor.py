# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A run on the page: phase, progress, curves and corrections while it runs, metrics and report when it has ended."""

import copy
import functools
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..arguments import TRAINING_PHASES
from ..evaluate.score_table import format_percent
from ..utils.boxes import TASKS, VQA, sort_modalities
from ..utils.io import read_json
from .locales import texts
from .run_progress import Progress, read_progress, read_trainer_log


LOG_LINES, LINE_LENGTH = 40, 400  # of the end of the log on the page; the whole log is in the run's folder


def trainer_info(
    stock: Callable[..., tuple[str, Any, dict[str, Any]]], lang: str, output_path: str, do_train: bool
) -> tuple[str, Any, dict[str, Any]]:
    """Wraps ``control.get_trainer_info``: reports the phase, and the progress over all phases, of a ClinKD run."""
    running_log, slider, info = stock(lang, output_path, do_train)
    progress = read_progress(Path(output_path))
    if progress is None:
        return running_log, slider, info

    import gradio as gr

    info.pop("loss_viewer", None)  # LLaMA Board draws the last phase only
    trained = [phase for phase in progress.phases if phase in TRAINING_PHASES]
    curves = {phase: read_trainer_log(Path(output_path), progress.phases, phase) for phase in trained}
    if any(map(has_values, curves.values())):
        info["loss_viewer"] = gr.Plot(draw_curves(curves))
    slider = gr.Slider(label=progress_label(progress, lang), value=progress.percentage, visible=True)
    return f"{progress_text(progress, lang)}\n\n{end_of_log(running_log)}", slider, info


def end_of_log(log: str) -> str:
    """The last :data:`LOG_LINES` lines of a code block; an empty text stays."""
    lines = log.removeprefix("```\n").removesuffix("\n```\n").splitlines()[-LOG_LINES:]
    return "\n".join(["```", *(line[-LINE_LENGTH:] for line in lines), "```\n"]) if lines else ""


def with_report(stock: Callable[..., Iterator[dict[Any, Any]]]) -> Callable[..., Iterator[dict[Any, Any]]]:
    """``Runner.monitor`` that shows the metrics and links the report when a ClinKD run has ended."""

    @functools.wraps(stock)
    def monitor(self: Any) -> Iterator[dict[Any, Any]]:
        import gradio as gr
        from llamafactory.webui.common import get_save_dir

        tab = "train" if self.do_train else "eval"
        output_dir = None
        if self.running_data:
            names = ("top.lang", "top.model_name", "top.finetuning_type", f"{tab}.output_dir")
            lang, *folders = (self.running_data[self.manager.get_elem_by_id(name)] for name in names)
            output_dir = Path(get_save_dir(*folders))
        update: dict[Any, Any] = {}
        for update in stock(view_of_page(self)):
            yield update
        if output_dir is None:
            return
        progress, report = read_progress(output_dir), output_dir / "clinkd" / "report.html"
        if progress is not None and progress.phase is None and report.is_file():
            gr.set_static_paths([report])  # the server serves this one file
            link = f"[{texts(lang)['messages']['report']}](gradio_api/file={quote(str(report.resolve()))})"
            table = metrics_markdown(read_json(report.with_name("metrics.json")), lang)
            output_box = self.manager.get_elem_by_id(f"{tab}.output_box")
            yield {output_box: f"{link}\n\n{table}\n\n{update[output_box]}"}

    return monitor


def _phase_title(progress: Progress, lang: str | None) -> str:
    catalogue, total = texts(lang), len(progress.phases)
    if progress.phase is None:
        return catalogue["messages"]["all_finished"].format(total=total)
    return catalogue["messages"]["phase"].format(number=progress.finished + 1, total=total, name=progress.phase)


def progress_label(progress: Progress, lang: str | None) -> str:
    """The label of the progress bar."""
    title = _phase_title(progress, lang)
    if progress.steps is None:
        return title
    current, total, elapsed, remaining = progress.steps
    return f"{title} · {current}/{total}: {elapsed} < {remaining}"


def progress_text(progress: Progress, lang: str | None) -> str:
    """The Markdown above the log."""
    messages = texts(lang)["messages"]
    lines = [f"**{_phase_title(progress, lang)}**", ""]
    if progress.answers is not None:
        lines.append(f"- {messages['answers'].format(count=progress.answers)}")
    for number, judged, corrected in progress.corrections:
        lines.append(f"- {messages['corrections'].format(round=number, judged=judged, corrected=corrected)}")
    return "\n".join(lines)


CURVES = {"loss": "loss", "ce": "CE", "kl": "KL"}


def has_values(log: list[dict[str, Any]]) -> bool:
    """Whether there is a point to draw; a run shorter than ``logging_steps`` writes one line, without a loss."""
    return any(key in line for line in log for key in CURVES)


def draw_curves(curves: dict[str, list[dict[str, Any]]]) -> Any:
    """A matplotlib figure from the lines of each phase's ``trainer_log.jsonl``, in English like LLaMA Board's own.

    Each phase with logged values has a plot of the loss, and of cross-entropy and KL divergence if they are logged.
    """
    from matplotlib.figure import Figure

    logs = {phase: log for phase, log in curves.items() if has_values(log)}
    figure = Figure(figsize=(6.4, 3.6 * len(logs)), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.1 / len(logs)))  # the page's own label covers the corner
    axes = figure.subplots(len(logs), squeeze=False)[:, 0]
    for axis, (phase, log) in zip(axes, logs.items(), strict=True):
        for key, title in CURVES.items():
            points = {line["current_steps"]: line[key] for line in log if key in line}
            if points:
                steps = sorted(points)
                axis.plot(steps, [points[step] for step in steps], label=title, marker="o" if len(steps) < 3 else None)
        axis.set_title(phase)
        axis.set_xlabel("step")
        axis.legend()
    return figure


def metrics_markdown(metrics: dict[str, Any], lang: str | None) -> str:
    """``metrics.json`` as a Markdown table in percent: a row for each modality, a column for each task."""
    words = texts(lang)["messages"]
    tasks = {name: metrics["tasks"][name] for name in (*TASKS, VQA) if name in metrics["tasks"]}
    headers = [words["modality"], *(f"{name} (`{task['metric']}`)" for name, task in tasks.items())]
    rows = [headers, ["---", *("---:" for _ in tasks)]]
    for name in sort_modalities(name for task in tasks.values() for name in task["modalities"]):
        rows.append([name, *(_percent(task["modalities"].get(name, {}).get("value")) for task in tasks.values())])
    rows.append([f"**{words['mean']}**", *(f"**{_percent(task['macro'])}**" for task in tasks.values())])
    rows.append([words["rows"], *(str(task["n"]) for task in tasks.values())])
    notes = [words["average"].format(value=_percent(metrics["average"])), *metrics.get("notes", [])]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", *notes])


def _percent(value: float | None) -> str:
    return format_percent(None if value is None else 100 * value, missing="–")


def view_of_page(runner: Any) -> Any:
    """The runner as one page sees it while it watches the current run; without a process, the runner itself.

    LLaMA Board's pages share one runner, and the page that ends first resets it for the others. The view has its own
    ``trainer`` and ``running_data``. It resets the shared runner only if no other run was started since, and reads
    ``aborted`` from where the Abort button of every page sets it.
    """
    process = runner.trainer
    if process is None:
        return runner
    drain(process)
    runner.running = True
    if not hasattr(process, "aborted"):  # the first page: an earlier Abort was meant for another run
        process.aborted = runner.aborted = False

    class PageView(type(runner)):
        """See :func:`view_of_page`."""

        @property
        def aborted(self) -> bool:
            return runner.aborted if runner.trainer is process else process.aborted

        @aborted.setter
        def aborted(self, value: bool) -> None:
            """Ignored: LLaMA Board's monitor starts with False, which must not undo an Abort in progress."""

        def _finalize(self, lang: str, finish_info: str) -> None:
            if runner.trainer is process:
                process.aborted = runner.aborted
                runner.trainer, runner.running_data, runner.aborted, runner.running = None, None, False, False
            super()._finalize(lang, finish_info)

    view = copy.copy(runner)
    view.__dict__.pop("aborted")
    view.__class__ = PageView
    return view


def drain(process: subprocess.Popen) -> None:
    """Reads a process's output from now on, whether or not a page watches; ``communicate`` waits for the result.

    Otherwise a run whose page was closed stands still once the 64 KiB of its pipe are full, and two pages that call
    ``communicate`` at once get EBADF.
    """
    if "communicate" in vars(process):
        return
    stock, output = process.communicate, Future()

    def read() -> None:
        try:
            output.set_result(stock())
        except Exception as error:  # raised in the monitor that waits
            output.set_exception(error)

    def communicate(input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        try:
            return output.result(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired(process.args, timeout) from None

    process.communicate = communicate
    threading.Thread(target=read, name="output of the run", daemon=True).start()
