# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a page shows of a run: phase, progress, curves and corrections under way, metrics and report at its end."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..arguments import TRAINING_PHASES
from ..utils.io import read_json
from .eval_tab import metrics_markdown
from .locales import texts
from .run_progress import Progress, read_progress, training_log
from .stock_runner import view_of_page


def with_phases(
    stock: Callable[..., tuple[str, Any, dict[str, Any]]],
) -> Callable[..., tuple[str, Any, dict[str, Any]]]:
    """``control.get_trainer_info`` that tells phase and progress over all phases of a ClinKD run."""

    @functools.wraps(stock)
    def get_trainer_info(lang: str, output_path: str, do_train: bool) -> tuple[str, Any, dict[str, Any]]:
        running_log, slider, info = stock(lang, output_path, do_train)
        progress = read_progress(Path(output_path))
        if progress is None:
            return running_log, slider, info

        import gradio as gr

        info.pop("loss_viewer", None)  # stock draws the last phase alone
        trained = [phase for phase in progress.phases if phase in TRAINING_PHASES]
        curves = {phase: training_log(Path(output_path), progress.phases, phase) for phase in trained}
        if any(curves.values()):
            info["loss_viewer"] = gr.Plot(draw_curves(curves))
        slider = gr.Slider(label=progress_label(progress, lang), value=progress.percentage, visible=True)
        return f"{progress_text(progress, lang)}\n\n{running_log}", slider, info

    return get_trainer_info


def with_report(stock: Callable[..., Iterator[dict[Any, Any]]]) -> Callable[..., Iterator[dict[Any, Any]]]:
    """``Runner.monitor`` that shows the metrics and links the report when a ClinKD run has ended."""

    @functools.wraps(stock)
    def monitor(self: Any) -> Iterator[dict[Any, Any]]:
        tab = "train" if self.do_train else "eval"
        lang, output_dir = output_dir_of(self, tab) if self.running_data else (None, None)
        update: dict[Any, Any] = {}
        for update in stock(view_of_page(self)):
            yield update
        if output_dir is None:
            return
        progress, report = read_progress(output_dir), output_dir / "clinkd" / "report.html"
        if progress is not None and progress.phase is None and report.is_file():
            box = self.manager.get_elem_by_id(f"{tab}.output_box")
            table = metrics_markdown(read_json(report.with_name("metrics.json")), lang)
            yield {box: f"{report_link(report, lang)}\n\n{table}\n\n{update[box]}"}

    return monitor


def output_dir_of(runner: Any, tab: str) -> tuple[str, Path]:
    """Language of the page that started the present run in a tab, and the run's ``output_dir``."""
    from llamafactory.webui.common import get_save_dir

    def get(elem_id: str) -> Any:
        return runner.running_data[runner.manager.get_elem_by_id(elem_id)]

    folder = get_save_dir(get("top.model_name"), get("top.finetuning_type"), get(f"{tab}.output_dir"))
    return get("top.lang"), Path(folder)


def phase_title(progress: Progress, lang: str | None) -> str:
    """The present phase by number and name."""
    catalogue, total = texts(lang), len(progress.phases)
    if progress.phase is None:
        return catalogue["messages"]["all_finished"].format(total=total)
    name = catalogue["phases"][progress.phase]
    return catalogue["messages"]["phase"].format(number=progress.finished + 1, total=total, name=name)


def progress_label(progress: Progress, lang: str | None) -> str:
    """What stands over the progress bar."""
    title = phase_title(progress, lang)
    if progress.steps is None:
        return title
    done, total, elapsed, remaining = progress.steps
    return f"{title} · {done}/{total}: {elapsed} < {remaining}"


def progress_text(progress: Progress, lang: str | None) -> str:
    """What stands over the log, as Markdown."""
    messages = texts(lang)["messages"]
    lines = [f"**{phase_title(progress, lang)}**"]
    if progress.answers is not None:
        lines.append(f"- {messages['answers'].format(count=progress.answers)}")
    for number, judged, corrected in progress.corrections:
        lines.append(f"- {messages['corrections'].format(round=number, judged=judged, corrected=corrected)}")
    return "\n".join([lines[0], "", *lines[1:]])


def report_link(report: Path, lang: str | None) -> str:
    """A link to the report; from now on this server hands out this one file."""
    import gradio as gr

    gr.set_static_paths([report])
    return f"[{texts(lang)['messages']['report']}](gradio_api/file={quote(str(report.resolve()))})"


def draw_curves(curves: dict[str, list[dict[str, Any]]]) -> Any:
    """One plot a training phase: the loss, and cross-entropy and KL divergence apart where they are logged.

    Args:
        curves: Phase -> lines of its ``trainer_log.jsonl``.

    Returns:
        A matplotlib figure; English like stock's, whose fonts it shares.
    """
    from matplotlib.figure import Figure

    drawn = {phase: log for phase, log in curves.items() if log}
    figure = Figure(figsize=(6.4, 3.6 * len(drawn)), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.1 / len(drawn)))  # the page's own label covers the corner
    axes = figure.subplots(len(drawn), squeeze=False)[:, 0]
    for axis, (phase, log) in zip(axes, drawn.items(), strict=True):
        for key, title in (("loss", "loss"), ("ce", "CE"), ("kl", "KL")):
            points = {line["current_steps"]: line[key] for line in log if key in line}
            if points:
                steps = sorted(points)
                axis.plot(steps, [points[step] for step in steps], label=title, marker="o" if len(steps) < 3 else None)
        axis.set_title(phase)
        axis.set_xlabel("step")
        axis.legend()
    return figure
