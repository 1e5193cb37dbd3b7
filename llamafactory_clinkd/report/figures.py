# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The report's figures: pure functions from numbers to an SVG element."""

from collections.abc import Mapping, Sequence

import numpy as np

from .svg import CORRECTED, INK, KEPT, LINE, MUTED, PAPER, REJECTED, RUNS, SURFACE, drawing, to_svg


MAX_POINTS = 400
STATUS_COLOURS = {"kept": KEPT, "corrected": CORRECTED, "rejected": REJECTED}


def run_colour(number: int) -> str:
    """The colour of a run, counted from 0."""
    return RUNS[number % len(RUNS)]


def modality_bars(
    names: Sequence[str],
    runs: Sequence[Sequence[tuple[float | None, Sequence[float] | None]]],
    paper: Sequence[float | None],
    identity: str,
    description: str,
) -> str:
    """A bar for each modality and run with its interval, and the paper's number as a diamond; in percent.

    Args:
        names: Modalities, from top to bottom.
        runs: For each run, for each modality, (value, (low, high) or None); None where it has no rows.
        paper: The paper's values.
        identity: Unique in the page.
        description: Alternative text.
    """
    thick = 0.72 / max(len(runs), 1)
    with drawing(4.2, 0.55 + len(names) * max(0.38, 0.2 * len(runs))) as (figure, axes):
        for number, values in enumerate(runs):
            for row, (value, interval) in enumerate(values):
                if value is None:
                    continue
                y = row + (number - (len(runs) - 1) / 2) * thick
                axes.barh(y, value, thick * 0.86, color=run_colour(number), alpha=0.62, linewidth=0)
                if interval is not None:
                    axes.plot(interval, [y, y], color=INK, linewidth=1.3, solid_capstyle="butt", clip_on=False)
        for row, value in enumerate(paper):
            if value is not None:
                axes.plot(value, row, marker="D", markersize=5.5, color=PAPER, markeredgecolor=SURFACE, clip_on=False)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent")
        axes.tick_params(length=0)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        return to_svg(figure, identity, description)


def training_curve(
    title: str, series: Sequence[tuple[int, Sequence[float], Sequence[float]]], identity: str, description: str
) -> str:
    """One logged quantity over optimiser steps, a line for each run; a long one also as its running mean.

    Args:
        title: Above the panel.
        series: (number of the run, steps, values).
        identity: Unique in the page.
        description: Alternative text.
    """
    with drawing(3.5, 2.1) as (figure, axes):
        for number, steps, values in series:
            x, y = bucket_means(steps, values, MAX_POINTS)
            window = len(y) // 20
            smooth = window >= 2
            colour = run_colour(number)
            if len(y) == 1:
                axes.plot(x, y, marker="o", color=colour)
            axes.plot(x, y, color=colour, linewidth=0.9 if smooth else 1.7, alpha=0.35 if smooth else 1.0)
            if smooth:
                axes.plot(x, running_mean(y, window), color=colour, linewidth=1.8)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.tick_params(length=0, labelcolor=MUTED)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.02)
        largest = max((abs(value) for _, _, values in series for value in values if np.isfinite(value)), default=0)
        if 0 < largest < 1e-2:
            axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        return to_svg(figure, identity, description)


def status_bars(rounds: Sequence[tuple[str, Mapping[str, int]]], identity: str, description: str) -> str:
    """A stacked bar of kept, corrected and rejected rows for each round.

    Args:
        rounds: (label, counts by status), from top to bottom.
        identity: Unique in the page.
        description: Alternative text.
    """
    with drawing(5.6, 0.55 + 0.36 * len(rounds)) as (figure, axes):
        widest = max((sum(counts.values()) for _, counts in rounds), default=0) or 1
        for row, (_, counts) in enumerate(rounds):
            left = 0
            for status, colour in STATUS_COLOURS.items():
                count = counts.get(status, 0)
                axes.barh(row, count, 0.62, left=left, color=colour, edgecolor=SURFACE, linewidth=1.0)
                if count > widest * 0.06:
                    axes.text(
                        left + count / 2, row, f"{count:,}", ha="center", va="center", color=SURFACE, weight="bold"
                    )
                left += count
        axes.set_yticks(range(len(rounds)), [label for label, _ in rounds])
        axes.set_ylim(len(rounds) - 0.5, -0.5)
        axes.set_xlim(0, widest)
        axes.set_xlabel("rows")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        return to_svg(figure, identity, description)


def proportion_bars(counts: Mapping[str, int], identity: str, description: str) -> str:
    """Shares of a whole as bars, each with its percentage and count (the paper's Figure A1 as bars).

    Args:
        counts: Name to count, from top to bottom.
        identity: Unique in the page.
        description: Alternative text.
    """
    total = sum(counts.values()) or 1
    with drawing(4.2, 0.3 + 0.32 * len(counts)) as (figure, axes):
        shares = [100 * count / total for count in counts.values()]
        axes.barh(range(len(counts)), shares, 0.66, color=run_colour(0))
        for row, (share, count) in enumerate(zip(shares, counts.values(), strict=True)):
            axes.text(share + max(shares) * 0.02, row, f"{share:.1f}%  ({count:,})", va="center", color=MUTED)
        axes.set_yticks(range(len(counts)), list(counts))
        axes.set_ylim(len(counts) - 0.5, -0.5)
        axes.set_xlim(0, max(shares) * 1.6)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        return to_svg(figure, identity, description)


def alpha_sweep(
    alphas: Sequence[float], scores: Mapping[str, Sequence[float | None]], identity: str, description: str
) -> str:
    """Scores over ``kd_alpha`` (the paper's Figure 4), in percent; the average is the bold line.

    Args:
        alphas: Ascending.
        scores: ``Average`` and tasks to one value an alpha, None where a run has none.
        identity: Unique in the page.
        description: Alternative text.
    """
    with drawing(6.2, 3.0) as (figure, axes):
        lines = {
            name: [(alpha, value) for alpha, value in zip(alphas, values, strict=True) if value is not None]
            for name, values in scores.items()
        }
        lines = {name: points for name, points in lines.items() if points}
        ends = [points[-1][1] for points in lines.values()]
        places = spread(ends, 0.065 * max(max(v for line in lines.values() for _, v in line) if lines else 1, 1))
        for number, (name, points) in enumerate(lines.items()):
            x, y = zip(*points, strict=True)
            bold = name == "Average"
            colour = INK if bold else run_colour(number)
            axes.plot(x, y, marker="o", color=colour, linewidth=2.6 if bold else 1.3, markersize=6 if bold else 4)
            axes.annotate(
                name, (x[-1], places[number]), (9, 0), textcoords="offset points", va="center", color=colour,
                weight="bold" if bold else "normal",
            )  # fmt: skip
        axes.axvline(0.5, color=PAPER, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set_xticks(alphas)
        axes.set_xlabel("kd_alpha")
        axes.set_ylabel("percent")
        axes.tick_params(length=0, labelcolor=MUTED)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.margins(x=0.12)
        axes.spines["left"].set_color(LINE)
        return to_svg(figure, identity, description)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Places near the values, in their order of size, no two nearer than ``gap``: for labels that must not overlap."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    placed = list(values)
    for below, above in zip(order, order[1:], strict=False):
        placed[above] = max(placed[above], placed[below] + gap)
    return placed


def bucket_means(x: Sequence[float], y: Sequence[float], most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` points: the means of runs of neighbours; float64, in the order given."""
    parts = min(most, len(x))
    xs, ys = (np.array_split(np.asarray(values, dtype=np.float64), parts) for values in (x, y))
    return np.array([part.mean() for part in xs]), np.array([part.mean() for part in ys])


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """The mean over ``window`` values around each, over fewer at both ends; float64, as long as ``values``."""
    kernel = np.ones(window)
    counts = np.convolve(np.ones(len(values)), kernel, mode="same")
    return np.convolve(np.asarray(values, dtype=np.float64), kernel, mode="same") / counts
