# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd attention``: what models look at, as a PNG."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


console = Console()


def attention(
    models: Annotated[list[str], typer.Argument(help="Folders of saved models or adapters; LABEL=FOLDER names one.")],
    image: Annotated[Path, typer.Option(help="The picture.", exists=True, dir_okay=False)],
    question: Annotated[str, typer.Option(help="The question about it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")] = Path("attention.png"),
    word: Annotated[str | None, typer.Option(help="Show this word's attention, not the whole answer's.")] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="Number of a decoder layer, may be repeated; by default all.")
    ] = None,
    answer: Annotated[str | None, typer.Option(help="One answer for all; by default each model answers.")] = None,
) -> None:
    """Draws which parts of an image each model attends to (the paper's Figures 5 and 6)."""
    from .figure import attention_figure

    named = [labelled(model) for model in models]
    with console.status(f"Looking into {len(named)} model(s)"):
        path = attention_figure(named, image, question, output, word=word, layers=layer or None, answer=answer)
    console.print(f"Attention maps: {path}")


def labelled(model: str) -> tuple[str, str]:
    """(label, folder) of ``LABEL=FOLDER``, or of a folder, which is then its own label."""
    label, separator, folder = model.partition("=")
    return (label, folder) if separator and not Path(model).exists() else (Path(model).name, model)
