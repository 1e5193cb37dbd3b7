# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""From a matplotlib figure to SVG that takes its colours and its font from the page, in light and dark alike."""

import io
import re
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for the page's variables; each is used nowhere else, so that replacing them is safe.
INK, MUTED, LINE, SURFACE = "#0c0f01", "#0c0f02", "#0c0f03", "#0c0f04"
PAPER, KEPT, CORRECTED, REJECTED = "#0c0f05", "#0c0f06", "#0c0f07", "#0c0f08"
RUNS = tuple(f"#0c0f1{number}" for number in range(8))
"""One colour a run; a ninth run begins anew."""

_VARIABLES = {
    INK: ("ink", "#1b2733"), MUTED: ("muted", "#5c6b78"), LINE: ("line", "#d9e0e6"), SURFACE: ("surface", "#ffffff"),
    PAPER: ("paper", "#7a6f9b"), KEPT: ("kept", "#8fa3b0"), CORRECTED: ("corrected", "#0b7f8f"),
    REJECTED: ("rejected", "#c2571a"),
    **{colour: (f"run-{number}", "#0b7f8f") for number, colour in enumerate(RUNS)},
}  # fmt: skip
_FONT = re.compile(r"font-family: [^;\"]*;? ?")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "clinkd",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
}


@contextmanager
def drawing(width: float, height: float) -> "Iterator[tuple[Figure, Axes]]":
    """A figure of one axes, in inches, in the page's style.

    Raises:
        ImportError: If matplotlib is not installed; the message names the extra.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("The report's figures need matplotlib: pip install 'llamafactory-clinkd[eval]'") from error

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def to_svg(figure: Any, identity: str, description: str) -> str:
    """Writes a figure as an ``<svg>`` element without ids of its own making, fixed colours or references outward.

    Args:
        figure: A matplotlib figure, within :func:`drawing`.
        identity: Unique in the page; every id of the element starts with it.
        description: What the figure shows, for those who do not see it.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{identity}-", svg)
    for colour, (name, fallback) in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name}, {fallback})")
    svg = _FONT.sub("", svg)
    head, body = svg.split(">", 1)
    width, height = (float(re.search(rf'{key}="([\d.]+)pt"', head)[1]) for key in ("width", "height"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(description)}">{body.strip()}'
    )
