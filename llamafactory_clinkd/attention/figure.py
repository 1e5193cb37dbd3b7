# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Attention maps as one PNG: the picture, and the same picture under the map of each model."""

from collections.abc import Sequence
from pathlib import Path
from string import whitespace
from textwrap import fill
from typing import Any

from PIL import Image

from .sample import Attention, load_engine, look


PANEL = 3.2  # inches a side
WIDTH = 38  # characters a line under a panel


def attention_figure(
    models: Sequence[tuple[str, str | Path]],
    image: str | Path,
    question: str,
    out_path: str | Path,
    *,
    word: str | None = None,
    layers: Sequence[int] | None = None,
    answer: str | None = None,
) -> Path:
    """Draws what each model looks at while it answers a question, side by side.

    Args:
        models: (label, folder) of saved models or adapters; each with the rotary positions saved beside it.
        image: Path of the picture.
        question: Without the image's placeholder.
        out_path: The PNG; its folder is made if missing.
        word: Attention of this word of answer or question, instead of the whole answer's.
        layers: Numbers of decoder layers, negative ones from the end; None for the mean over all.
        answer: One answer for all models; None to let each answer greedily.

    Raises:
        ValueError: If there is no model, or the word is neither in the answer nor in the question.
        ImportError: If matplotlib is not installed.
    """
    if not models:
        raise ValueError("No model to look into: give at least one (label, folder).")
    _figure_class()  # before minutes of loading
    panels = [
        (label, look(load_engine(path), image, question, word=word, layers=layers, answer=answer))
        for label, path in models
    ]
    with Image.open(image) as picture:
        return draw(picture.convert("RGB"), panels, question if word is None else f"{question} [{word}]", out_path)


def draw(picture: Image.Image, panels: Sequence[tuple[str, Attention]], title: str, out_path: str | Path) -> Path:
    """Draws the panels and writes the PNG; each map is scaled to its own largest value.

    Args:
        picture: The image, in any size: a map covers it whole, squared or not.
        panels: (label, attention).
        title: Over the figure.
        out_path: The PNG.
    """
    size = PANEL * (len(panels) + 1), PANEL * picture.height / picture.width + 1.4
    figure = _figure_class()(figsize=size, layout="constrained")
    figure.suptitle(fill(_plain(title), WIDTH * (len(panels) + 1)), fontsize=10)
    axes = figure.subplots(1, len(panels) + 1)
    for axis in axes:
        axis.imshow(picture)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_title("image", fontsize=10)
    for axis, (label, found) in zip(axes[1:], panels, strict=True):
        extent = (-0.5, picture.width - 0.5, picture.height - 0.5, -0.5)
        axis.imshow(found.map.numpy(), cmap="jet", alpha=0.45, interpolation="bilinear", extent=extent, vmin=0)
        axis.set_title(_plain(label), fontsize=10)
        share = f"{float(found.map.sum()):.0%} of the attention is on the image"
        axis.set_xlabel(f"{fill(_plain(found.answer), WIDTH)}\n({share})", fontsize=8)

    out_path = Path(out_path)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    temporary = out_path.with_name(f".{out_path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=150)
    temporary.replace(out_path)
    return out_path


def _plain(text: str) -> str:
    """``text`` as matplotlib shows it as it is: a dollar would start a formula, a control character has no glyph."""
    shown = (each if each.isprintable() or each in whitespace else "\N{REPLACEMENT CHARACTER}" for each in text)
    return "".join(shown).replace("$", r"\$")


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Attention maps need matplotlib. Run: pip install 'llamafactory-clinkd[eval]'") from error
    return Figure
