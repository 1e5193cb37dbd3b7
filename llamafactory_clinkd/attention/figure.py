# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd attention``: one PNG with the image, and the image under the attention map of each model."""

from collections.abc import Sequence
from pathlib import Path
from string import whitespace
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from ..utils.console import console, quiet_libraries
from ..utils.environment import require_library
from ..utils.io import atomic_path


if TYPE_CHECKING:
    from PIL import Image

    from .answer_attention import AnswerAttention

PANEL_SIZE = 3.2  # inches
CAPTION_WIDTH = 38  # characters per line under a panel
CAPTION_LINE, TITLE_LINE = 0.14, 0.17  # inches of a further line


def attention(
    models: Annotated[list[str], typer.Argument(help="Folders of saved models or adapters; LABEL=FOLDER names one.")],
    image: Annotated[Path, typer.Option(help="The image.", exists=True, dir_okay=False)],
    question: Annotated[str, typer.Option(help="The question about it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")] = Path("attention.png"),
    word: Annotated[str | None, typer.Option(help="Show this word's attention, not the whole answer's.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="A decoder layer (repeatable); by default all.")] = None,
    answer: Annotated[str | None, typer.Option(help="One answer for all; by default each model answers.")] = None,
) -> None:
    """Draws which parts of an image each model attends to (the paper's Figures 5 and 6)."""
    labelled = [parse_label(model) for model in models]
    with console.status(f"Computing the attention of {len(labelled)} model(s)"), quiet_libraries():
        path = attention_figure(labelled, image, question, output, word=word, layers=layer or None, answer=answer)
    console.print(f"Attention maps: {path}")


def parse_label(model: str) -> tuple[str, str]:
    """(label, folder) of ``LABEL=FOLDER``, or of a folder, whose name is then the label."""
    label, separator, folder = model.partition("=")
    return (label, folder) if separator and not Path(model).exists() else (Path(model).name, model)


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
    """Draws the attention of each model while it answers a question, side by side.

    Args:
        models: (label, folder) of saved models or adapters; each with the rotary positions saved beside it.
        image: Path of the image.
        question: Without the image's placeholder.
        out_path: The PNG; its folder is created if missing.
        word: Attention of this word of the answer or question, instead of the whole answer's.
        layers: Numbers of decoder layers, negative ones from the end; None for the mean over all.
        answer: One answer for all models; None to let each model answer greedily.

    Raises:
        ValueError: If there is no model, a folder is none, or the word is neither in the answer nor in the question.
        ImportError: If matplotlib is not installed.
    """
    if not models:
        raise ValueError("There is no model to draw: give at least one (label, folder).")
    require_library("matplotlib", "eval", "Attention maps need")
    for label, path in models:
        if not any((Path(path) / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise ValueError(f"{path} ({label}) is not a saved model: no config.json or adapter_config.json is in it.")
    from ..utils.pixels import read_pixels
    from .answer_attention import answer_attention, load_engine

    panels = [
        (label, answer_attention(load_engine(path), image, question, word=word, layers=layers, answer=answer))
        for label, path in models
    ]
    return draw(read_pixels(image), panels, question if word is None else f"{question} [{word}]", out_path)


def draw(
    picture: "Image.Image", panels: Sequence[tuple[str, "AnswerAttention"]], title: str, out_path: str | Path
) -> Path:
    """Draws the (label, attention) panels: a map over the picture, scaled to its largest value, and the boxes."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    heading = fill(_plain(title), CAPTION_WIDTH * (len(panels) + 1))
    captions = [fill(_plain(result.answer), CAPTION_WIDTH) for _, result in panels]
    lines = max((caption.count("\n") for caption in captions), default=0)
    height = PANEL_SIZE * picture.height / picture.width + 1.4
    height += CAPTION_LINE * lines + TITLE_LINE * heading.count("\n")
    figure = Figure(figsize=(PANEL_SIZE * (len(panels) + 1), height), layout="constrained")
    figure.suptitle(heading, fontsize=10)
    axes = figure.subplots(1, len(panels) + 1)
    for axis in axes:
        axis.imshow(picture)
        axis.set(xticks=[], yticks=[], anchor="N")
    axes[0].set_title("image", fontsize=10)
    for axis, caption, (label, result) in zip(axes[1:], captions, panels, strict=True):
        extent = (-0.5, picture.width - 0.5, picture.height - 0.5, -0.5)
        axis.imshow(result.map.numpy(), cmap="jet", alpha=0.45, interpolation="bilinear", extent=extent, vmin=0)
        axis.set_title(_plain(label), fontsize=10)
        share = f"{float(result.map.sum()):.0%} of the attention is on the image"
        axis.set_xlabel(f"{caption}\n({share})", fontsize=8)
        for x1, y1, x2, y2 in result.boxes:
            across, down = picture.width / 1000, picture.height / 1000
            place = (x1 * across - 0.5, y1 * down - 0.5), (x2 - x1) * across, (y2 - y1) * down
            for colour, line in (("black", 3.5), ("white", 1.8)):
                axis.add_patch(Rectangle(*place, fill=False, edgecolor=colour, linewidth=line))

    out_path = Path(out_path)
    with atomic_path(out_path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight", pad_inches=0.1)
    return out_path


def _plain(text: str) -> str:
    """``text`` for matplotlib, where a dollar would start a formula and a control character has no glyph."""
    printable = (char if char.isprintable() or char in whitespace else "\N{REPLACEMENT CHARACTER}" for char in text)
    return "".join(printable).replace("$", r"\$")
