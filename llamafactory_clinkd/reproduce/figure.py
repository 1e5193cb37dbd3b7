# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Figure 4: the scores against alpha of Eq. 16."""

from pathlib import Path

from .results import score
from .statistics import spread
from .table import COLUMNS, Results
from .table_rows import ALPHAS, REFERENCE, alpha_row


def draw_figure4(results: Results, path: Path) -> Path:
    """Draws mean and standard deviation over seeds of each task and the average; the paper printed no numbers.

    The row without distillation is a dotted line: what every alpha has to be above.

    Raises:
        ValueError: If no value of alpha has a result.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    drawn = 0
    for number, task in enumerate(COLUMNS):
        points = [(alpha, found) for alpha in ALPHAS if (found := _spread(results, alpha_row(alpha), task))]
        if not points:
            continue
        drawn += 1
        x, y = [alpha for alpha, _ in points], [found.mean for _, found in points]
        error = [found.std or 0.0 for _, found in points]
        width = 2.5 if task == "Average" else 1.2
        axes.errorbar(x, y, error, label=task, color=f"C{number}", linewidth=width, marker="o", capsize=3)
        if (reference := _spread(results, REFERENCE, task)) is not None:
            axes.axhline(reference.mean, color=f"C{number}", linewidth=0.8, linestyle=":")
    if not drawn:
        raise ValueError("No value of alpha has a result yet: there is nothing to draw.")
    axes.set_xlabel("α of Eq. 16")
    axes.set_ylabel("score, %")
    axes.set_title("Pseudo-KD at several α (dotted: SFT without distillation)", fontsize=10)
    axes.legend(fontsize=8, ncols=len(COLUMNS), loc="upper center", bbox_to_anchor=(0.5, -0.14))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def _spread(results: Results, row: str, task: str):
    values = [score(result, task) for result in results.get(row, {}).values()]
    return spread([value for value in values if value is not None])
