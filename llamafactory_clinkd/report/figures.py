# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The report's figures as SVG elements, whose colours and font are those of the page in light and dark.

Every figure has an ``svg_id``, unique in the page, and a ``description``, its alternative text. Lists are drawn from
top to bottom; runs are counted from 0.
"""

import base64
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..utils.environment import require_library


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Bar = tuple[float | None, Sequence[float] | None]  # value, None without rows, and (low, high)
MAX_POINTS = 400
# Placeholders of the page's CSS variables; none is used for anything else, so that they can be replaced in the SVG.
INK, MUTED, LINE, SURFACE = "#0c0f01", "#0c0f02", "#0c0f03", "#0c0f04"
PAPER, KEPT, CORRECTED, REJECTED = "#0c0f05", "#0c0f06", "#0c0f07", "#0c0f08"
RUNS = tuple(f"#0c0f1{number}" for number in range(8))
STATUS_COLOURS = {"kept": KEPT, "corrected": CORRECTED, "rejected": REJECTED}

_VARIABLES = {
    INK: "ink", MUTED: "muted", LINE: "line", SURFACE: "surface", PAPER: "paper", KEPT: "kept",
    CORRECTED: "corrected", REJECTED: "rejected",
    **{colour: f"run-{number}" for number, colour in enumerate(RUNS)},
}  # fmt: skip
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "clinkd", "text.parse_math": False, "text.color": INK,
    "font.family": "DejaVu Sans", "font.size": 9.0, "figure.facecolor": "none", "axes.facecolor": "none",
    "axes.edgecolor": LINE, "axes.labelcolor": MUTED, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.titlesize": 10.0, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "xtick.color": LINE, "xtick.labelcolor": MUTED, "xtick.major.size": 0,
    "ytick.color": LINE, "ytick.labelcolor": INK, "ytick.major.size": 0,
    "grid.color": LINE, "grid.linewidth": 0.7, "legend.frameon": False,
}  # fmt: skip


def run_colour(index: int) -> str:
    """The colour of a run; the ninth run has the colour of the first."""
    return RUNS[index % len(RUNS)]


def modality_bars(
    names: Sequence[str], runs: Sequence[Sequence[Bar]], paper: Sequence[float | None], svg_id: str, description: str
) -> str:
    """A bar for each modality of each run with its interval, and the paper's score as a diamond; in percent."""
    thickness = 0.72 / max(len(runs), 1)
    with _drawing(4.2, 0.55 + len(names) * max(0.38, 0.2 * len(runs))) as (figure, axes):
        for index, values in enumerate(runs):
            for row, (value, interval) in enumerate(values):
                if value is None:
                    continue
                y = row + (index - (len(runs) - 1) / 2) * thickness
                axes.barh(y, value, thickness * 0.86, color=run_colour(index), alpha=0.62, linewidth=0)
                if interval is not None:
                    axes.plot(interval, [y, y], color=INK, linewidth=1.3, solid_capstyle="butt", clip_on=False)
        for row, value in enumerate(paper):
            if value is not None:
                axes.plot(value, row, marker="D", markersize=5.5, color=PAPER, markeredgecolor=SURFACE, clip_on=False)
        _label_rows(axes, names)
        axes.set(xlim=(0, 100), xlabel="percent")
        axes.grid(axis="x")
        return _to_svg(figure, svg_id, description)


def recall_curve(series: Sequence[tuple[int, Sequence[float], Sequence[float]]], svg_id: str, description: str) -> str:
    """Recall in percent over the IoU threshold, a line for each (run, thresholds, values)."""
    with _drawing(4.2, 2.6) as (figure, axes):
        for index, thresholds, values in series:
            axes.plot(thresholds, values, marker="o", markersize=3.5, color=run_colour(index))
        axes.axvline(0.5, color=PAPER, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set(xlabel="IoU threshold", ylabel="recall, percent", ylim=(0, 100))
        axes.tick_params(labelcolor=MUTED)
        axes.grid(axis="y")
        return _to_svg(figure, svg_id, description)


def training_curve(
    title: str, series: Sequence[tuple[int, Sequence[float], Sequence[float]]], svg_id: str, description: str
) -> str:
    """A logged quantity over optimiser steps, a line for each (run, steps, values); long ones with a running mean."""
    with _drawing(3.5, 2.1) as (figure, axes):
        for index, steps, values in series:
            x, y = bucket_means(steps, values, MAX_POINTS)
            window, colour = len(y) // 20, run_colour(index)
            smooth = window >= 2
            if len(y) == 1:
                axes.plot(x, y, marker="o", color=colour)
            axes.plot(x, y, color=colour, linewidth=0.9 if smooth else 1.7, alpha=0.35 if smooth else 1.0)
            if smooth:
                axes.plot(x, running_mean(y, window), color=colour, linewidth=1.8)
        axes.set(title=title, xlabel="step")
        axes.tick_params(labelcolor=MUTED)
        axes.grid(axis="y")
        axes.margins(x=0.02)
        largest = max((abs(value) for _, _, values in series for value in values if np.isfinite(value)), default=0)
        if 0 < largest < 1e-2:
            axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        return _to_svg(figure, svg_id, description)


def status_bars(rounds: Sequence[tuple[str, Mapping[str, int]]], svg_id: str, description: str) -> str:
    """A stacked bar of kept, corrected and rejected rows for each round, (label, counts by status)."""
    with _drawing(5.6, 0.55 + 0.36 * len(rounds)) as (figure, axes):
        longest = max((sum(counts.values()) for _, counts in rounds), default=0) or 1
        for row, (_, counts) in enumerate(rounds):
            left = 0
            for status, colour in STATUS_COLOURS.items():
                count = counts.get(status, 0)
                axes.barh(row, count, 0.62, left=left, color=colour, edgecolor=SURFACE, linewidth=1.0)
                if count > longest * 0.06:
                    style = {"ha": "center", "va": "center", "color": SURFACE, "weight": "bold"}
                    axes.text(left + count / 2, row, f"{count:,}", **style)
                left += count
        _label_rows(axes, [label for label, _ in rounds])
        axes.set(xlim=(0, longest), xlabel="rows")
        return _to_svg(figure, svg_id, description)


def proportion_bars(counts: Mapping[str, int], svg_id: str, description: str) -> str:
    """Shares of a whole, each with its percentage and count (the paper's Figure A1 as bars)."""
    total = sum(counts.values()) or 1
    with _drawing(4.2, 0.3 + 0.32 * len(counts)) as (figure, axes):
        shares = [100 * count / total for count in counts.values()]
        axes.barh(range(len(counts)), shares, 0.66, color=run_colour(0))
        for row, (share, count) in enumerate(zip(shares, counts.values(), strict=True)):
            axes.text(share + max(shares) * 0.02, row, f"{share:.1f}%  ({count:,})", va="center", color=MUTED)
        _label_rows(axes, list(counts))
        axes.set(xlim=(0, max(shares) * 1.6), xticks=[])
        axes.spines["bottom"].set_visible(False)
        return _to_svg(figure, svg_id, description)


def alpha_sweep(
    alphas: Sequence[float], scores: Mapping[str, Sequence[float | None]], svg_id: str, description: str
) -> str:
    """Scores of tasks and ``Average`` (bold) in percent over ascending ``kd_alpha``, the paper's Figure 4."""
    with _drawing(6.2, 3.0) as (figure, axes):
        lines = {
            name: points
            for name, values in scores.items()
            if (points := [pair for pair in zip(alphas, values, strict=True) if pair[1] is not None])
        }
        highest = max((value for points in lines.values() for _, value in points), default=1)
        label_heights = spread([points[-1][1] for points in lines.values()], 0.065 * max(highest, 1))
        for index, (name, points) in enumerate(lines.items()):
            x, y = zip(*points, strict=True)
            colour, width, size, weight = run_colour(index), 1.3, 4, "normal"
            if name == "Average":
                colour, width, size, weight = INK, 2.6, 6, "bold"
            axes.plot(x, y, marker="o", color=colour, linewidth=width, markersize=size)
            label = {"textcoords": "offset points", "va": "center", "color": colour, "weight": weight}
            axes.annotate(name, (x[-1], label_heights[index]), (9, 0), **label)
        axes.axvline(0.5, color=PAPER, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set(xticks=alphas, xlabel="kd_alpha", ylabel="percent")
        axes.tick_params(labelcolor=MUTED)
        axes.grid(axis="y")
        axes.margins(x=0.12)
        axes.spines["left"].set_visible(True)
        return _to_svg(figure, svg_id, description)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """The values in their order of size, moved up until no two are nearer than ``gap``: for labels."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    heights = list(values)
    for below, above in zip(order, order[1:], strict=False):
        heights[above] = max(heights[above], heights[below] + gap)
    return heights


def bucket_means(x: Sequence[float], y: Sequence[float], most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` points, the means of consecutive points; float64."""
    xs, ys = (np.array_split(np.asarray(values, dtype=np.float64), min(most, len(x))) for values in (x, y))
    return np.array([bucket.mean() for bucket in xs]), np.array([bucket.mean() for bucket in ys])


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """The mean over ``window`` values around each, over fewer at both ends; float64, as long as ``values``."""
    sums, counts = (np.convolve(each, np.ones(window), mode="same") for each in (values, np.ones(len(values))))
    return sums / counts


@contextmanager
def _drawing(width: float, height: float) -> Iterator[tuple["Figure", "Axes"]]:
    """A figure with one pair of axes in the page's style, sizes in inches."""
    matplotlib = require_library("matplotlib", "eval", "The report's figures need")
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def _label_rows(axes: "Axes", labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


@cache
def light_colours() -> dict[str, str]:
    """The colours of the page's light scheme, ``#rrggbb`` by the name of their CSS variable."""
    style = Path(__file__).with_name("templates").joinpath("style.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+): (#\w{6})", style.split(":root {", 1)[1].split("}", 1)[0]))


def _to_pdf(figure: "Figure") -> str:
    """The figure as a PDF in the light scheme's colours: compressed with zlib, in base64."""
    import matplotlib
    from matplotlib.colors import to_rgb

    buffer = io.BytesIO()
    with matplotlib.rc_context({"pdf.compression": 0, "pdf.fonttype": 42}):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    content = buffer.getvalue()
    for placeholder, name in _VARIABLES.items():
        # As matplotlib writes the numbers. The length stays, because a PDF names the places of its parts.
        old = r"\s+".join(re.escape(f"{value:.10f}".rstrip("0")) for value in to_rgb(placeholder)).encode()
        new = " ".join(f"{value:.4f}" for value in to_rgb(light_colours()[name])).encode()
        content = re.sub(old + rb"(?=\s+(?:rg|RG)\b)", lambda found, new=new: new.ljust(len(found[0])), content)
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def _to_svg(figure: "Figure", svg_id: str, description: str) -> str:
    """The figure as an ``<svg>`` element whose ids start with ``svg_id``, without fixed colours or external links."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{svg_id}-", svg)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name}, {light_colours()[name]})")
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    head, body = svg.split(">", 1)
    width, height = (float(re.search(rf'{key}="([\d.]+)pt"', head)[1]) for key in ("width", "height"))
    attributes = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}"'
    attributes += f' data-pdf="{_to_pdf(figure)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>{body.strip()}'
