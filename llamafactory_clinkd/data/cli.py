# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""`clinkd data`: convert, check, stats, split and subset."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from ..utils.boxes import VQA, TagStyle
from ..utils.console import WholeTable, bars_of_parts, console, exit_on_error
from ..utils.io import write_json
from .baking import BAKED
from .check import Check
from .check import check as run_check
from .convert import Conversion, Options
from .convert import convert as run_convert
from .coordinates import IMAGE_MAX_PIXELS, Coordinates, ModelType
from .formats import FORMATS, Format
from .problems import ERRORS, REASONS, WARNINGS
from .scans import Slice
from .split import write_split, write_subset
from .stats import draw_modalities, statistics


app = typer.Typer(help="Convert, check, count and split data sets.", no_args_is_help=True)
DataSet = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A data set that `convert` wrote.")]
ImageFolder = Annotated[
    Path | None, typer.Option(file_okay=False, help="LLaMA-Factory's media_dir; by default the file's folder.")
]
JsonFile = Annotated[Path | None, typer.Option(help="Write the numbers to this file as JSON.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same rows on every machine.")]


@app.command(epilog="Example: clinkd data convert rows.parquet data/mine --name mine")
def convert(
    source: Annotated[str, typer.Argument(help="JSON, CSV or Parquet file, a folder of them, or a hub data set.")],
    output: Annotated[Path, typer.Argument(help="Folder of the data set (LLaMA-Factory's dataset_dir).")],
    name: Annotated[str | None, typer.Option(help="Name of the data set; by default the source's name.")] = None,
    format: Annotated[
        Literal[*FORMATS] | None, typer.Option(metavar="NAME", help="One of docs/data.md; by default detected.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of a source that has several, such as train.")] = None,
    tags: Annotated[
        TagStyle, typer.Option(metavar="STYLE", help="Of ref and box tags: qwen2_vl or qwen_vl.")
    ] = "qwen2_vl",
    coordinates: Annotated[
        Coordinates,
        typer.Option(metavar="UNIT", help="Of a box: auto, pixels, resized, thousandths or fractions."),
    ] = "auto",
    split_turns: Annotated[bool, typer.Option(help="One row per turn; else one row per conversation.")] = False,
    image_folder: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="LLaMA-Factory's media_dir; by default the source file's folder, or OUTPUT if the pictures are in "
            "the rows or the source is not one file.",
        ),
    ] = None,
    image_prefix: Annotated[str, typer.Option(help="Put before every image path, e.g. images.")] = "",
    slice: Annotated[str, typer.Option(help="Slice of a volume: first, middle, 40, z:40, x:middle.")] = "first",
    model_type: Annotated[
        ModelType,
        typer.Option(metavar="MODEL", help="Whose box convention is written: qwen2_vl, qwen2_5_vl or qwen3_vl."),
    ] = "qwen2_vl",
    image_max_pixels: Annotated[int, typer.Option(help="The recipe's, for qwen2_5_vl.")] = IMAGE_MAX_PIXELS,
    window: Annotated[str | None, typer.Option(help="CT window in HU as CENTRE,WIDTH, e.g. 40,400.")] = None,
    upright: Annotated[
        bool, typer.Option("--upright/--stored", help="Apply EXIF orientations, or drop them: as the boxes are drawn.")
    ] = True,
    patient_column: Annotated[str, typer.Option(help="The source's patient, hashed for `split --by patient`.")] = "",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")] = False,
    json: JsonFile = None,
) -> None:
    """Turn files of any format that docs/data.md lists into a data set for LLaMA-Factory.

    Bad rows go to rejects.jsonl with the reason. Run an interrupted command again to resume it.
    """
    with _resumable():
        scans = {"default_slice": Slice.parse(slice), "window": _parse_window(window)}
        model = {"model_type": model_type, "image_max_pixels": image_max_pixels}
        source_keys = {"upright": upright, "patient_column": patient_column, "image_prefix": image_prefix}
        options = Options(tags, coordinates, split_turns, image_folder, **source_keys, **scans, **model)
        size = Path(source).stat().st_size if Path(source).is_file() else None

        def print_format(kind: Format, detected: bool) -> None:
            console.print(f"Format: {kind.name} ({kind.description}), {'detected' if detected else 'as given'}.")

        with bars_of_parts(console) as show:
            callbacks = {"on_format": print_format, "on_bytes": lambda read: show("bytes", read, size)}
            settings = {"name": name, "format": format, "split": split, "options": options, "strict": strict}
            conversion = run_convert(source, output, **settings, **callbacks)
    if conversion.resumed_at:
        console.print(f"Resumed an interrupted run after row {conversion.resumed_at:,}.")
    console.print(_conversion_table(conversion))
    if rows := conversion.tasks.get(VQA):
        console.print(f"{rows:,} rows are VQA: evaluated by accuracy of closed questions and recall of open ones.")
    for warning in conversion.warnings:
        console.print(f"[yellow]Warning[/]: {escape(warning)}")
    if hidden := conversion.warned - len(conversion.warnings):
        console.print(f"[yellow]{hidden:,} more warnings[/] of these kinds are not shown.")
    if conversion.unread:
        counts = f"{conversion.unread:,} of {conversion.answers:,} answers"
        console.print(f"[yellow]{counts} hold numbers in a form that is not read as a box[/]: see the warnings.")
    if conversion.rejected:
        console.print(f"The rejected rows are in {conversion.rejects_path}.")
    keys = f"dataset: {conversion.path.stem}, dataset_dir: {output}, media_dir: {conversion.image_folder}"
    console.print(f"In the recipe: {keys}", soft_wrap=True)
    if json:
        write_json(json, conversion.as_json())
    if not conversion.converted:
        found = f"all {conversion.rejected:,} rows were rejected" if conversion.rejected else "the source has no rows"
        console.print(f"[red]Error[/]: the data set is empty, because {found}.")
        raise typer.Exit(1)


@app.command(epilog="Example: clinkd data check data/mine/mine.json --model Qwen/Qwen2-VL-2B-Instruct")
def check(
    dataset: DataSet,
    image_folder: ImageFolder = None,
    against: Annotated[list[Path] | None, typer.Option(exists=True, help="Must share no image and no volume.")] = None,
    model: Annotated[str | None, typer.Option(help="Qwen2-VL whose tokenizer counts tokens.")] = None,
    cutoff_len: Annotated[int, typer.Option(help="The recipe's.")] = 2048,
    image_max_pixels: Annotated[int, typer.Option(help="The recipe's.")] = IMAGE_MAX_PIXELS,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one per core.")] = None,
    report: Annotated[Path | None, typer.Option(help="Without extension; by default beside the data set.")] = None,
) -> None:
    """Find what would spoil a training; the exit status is 1 if there is an error."""
    paths = {"image_folder": image_folder, "against": against or (), "report": report}
    recipe = {"model": model, "cutoff_len": cutoff_len, "image_max_pixels": image_max_pixels}
    with _resumable(), bars_of_parts(console) as show:
        result = run_check(dataset, **paths, **recipe, workers=workers, on_progress=show)
    console.print(_check_table(result))
    if result.tokens_checked:
        console.print(f"The longest row has {result.longest:,} tokens; cutoff_len is {cutoff_len:,}.")
    else:
        console.print("Tokens were not counted: give the model with --model.")
    if result.unread_against:
        images = f"[yellow]{result.unread_against:,} images of the other sets do not open[/] in this image folder"
        console.print(f"{images}: they were compared by path and volume only.")
    console.print(f"All problems: {result.findings_path}", soft_wrap=True)
    if result.errors:
        raise typer.Exit(1)


@app.command(epilog="Example: clinkd data stats data/mine/mine.json --json stats.json")
def stats(
    dataset: DataSet,
    image_folder: ImageFolder = None,
    figure: Annotated[Path | None, typer.Option(help="PNG of the shares; by default beside the file.")] = None,
    json: JsonFile = None,
) -> None:
    """Count turns by modality and task (the paper's Figure A1), lengths, boxes per answer and image sizes."""
    with _resumable(), bars_of_parts(console) as show:
        folder = image_folder or dataset.parent
        counts = statistics(dataset, image_folder=folder, on_rows=lambda rows: show("rows", rows, None))
    console.print(_modality_table(counts, dataset), _detail_table(counts), sep="\n")
    if json:
        write_json(json, counts)
    figure = figure or dataset.with_suffix(".modalities.png")
    with _resumable():
        draw_modalities(counts["modalities"], figure)
    console.print(f"Figure: {figure}", soft_wrap=True)


@app.command(epilog="Example: clinkd data split data/mine/mine.json --test 0.1 --by patient")
def split(
    dataset: DataSet,
    test: Annotated[float, typer.Option(help="Share of the rows in the test set.")] = 0.1,
    by: Annotated[
        Literal["volume", "patient", "image"], typer.Option(help="What the two sets never share.")
    ] = "volume",
    seed: Seed = 0,
    names: Annotated[str | None, typer.Option(help="TRAIN,TEST; by default <data set>_train,<data set>_test.")] = None,
) -> None:
    """Split a data set into a training and a test set that share no volume (or patient, or image)."""
    with _resumable():
        train_name, _, test_name = (names or f"{dataset.stem}_train,{dataset.stem}_test").partition(",")
        if not train_name or not test_name or train_name == test_name:
            raise ValueError(f"--names should be two different names, TRAIN,TEST, not {names!r}.")
        rows = write_split(dataset, train_name, test_name, share=test, by=by, seed=seed)
    console.print(f"{train_name}: {rows[0]:,} rows; {test_name}: {rows[1]:,} rows; by {by}, seed {seed}.")


@app.command(epilog="Example: clinkd data subset data/mine/mine.json --size 500 --stratify")
def subset(
    dataset: DataSet,
    size: Annotated[int, typer.Option(min=0, help="Number of rows; the paper pseudo-labels 30,000.")] = 30000,
    stratify: Annotated[bool, typer.Option("--stratify", help="Keep the shares of modality and task.")] = False,
    seed: Seed = 0,
    name: Annotated[str | None, typer.Option(help="By default <data set>_<size>.")] = None,
) -> None:
    """Draw a seeded subset, such as the one for pseudo-labels."""
    with _resumable():
        name = name or f"{dataset.stem}_{size}"
        rows = write_subset(dataset, name, size, seed=seed, stratify=stratify)
    console.print(f"{name}: {rows:,} rows{', stratified by modality and task' if stratify else ''}, seed {seed}.")


@contextmanager
def _resumable() -> Iterator[None]:
    """``exit_on_error``, and a hint instead of a traceback when the user interrupts."""
    with exit_on_error():
        try:
            yield
        except KeyboardInterrupt as interrupt:
            console.print("Interrupted. Run the same command again to finish.")
            raise typer.Exit(130) from interrupt


def _parse_window(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        centre, width = map(float, text.split(","))
    except ValueError as error:
        raise ValueError(f"--window should be CENTRE,WIDTH in HU, such as 40,400, not {text!r}.") from error
    if width <= 0:
        raise ValueError(f"The width of --window has to be positive, not {width:g}.")
    return centre, width


def _conversion_table(conversion: Conversion) -> WholeTable:
    table = WholeTable("", "rows", title=escape(str(conversion.path)))
    for label in ("rows_in", "converted", "rejected", "rows_out"):
        table.add_row(label.removeprefix("rows_"), f"{getattr(conversion, label):,}")
    for label, counts in (("task", conversion.tasks), ("modality", conversion.modalities)):
        table.add_section()
        for name, count in counts.items():
            note = " (`other` in evaluation)" if (label, name) == ("modality", "unknown") else ""
            table.add_row(f"{label} {escape(name)}{note}", f"{count:,}")
    table.add_section()
    for code, count in conversion.pictures.items():
        written = " (a PNG is used)" if code in BAKED else ""
        table.add_row(f"[yellow]{code}[/]: {escape((ERRORS | WARNINGS)[code])}{written}", f"{count:,}")
    table.add_section()
    for reason, count in conversion.reasons.items():
        table.add_row(f"[red]{reason}[/]: {escape(REASONS[reason])}", f"{count:,}")
    return table


def _check_table(result: Check) -> WholeTable | str:
    """Each problem with its count and the first row that has it."""
    title = f"{escape(result.path)}: {result.rows:,} rows, {result.images:,} images"
    if not result.counts:
        return f"{title}, no problems."
    table = WholeTable("", "problem", "count", "first", title=title)
    for code, count in result.counts.most_common():
        level = "[red]error[/]" if code in ERRORS else "[yellow]warning[/]"
        first = result.examples[code][0]
        example = escape(f"row {first['row']}: {first['detail'][:100]}")
        table.add_row(level, f"{code}: {escape((ERRORS | WARNINGS)[code])}", f"{count:,}", example)
    return table


def _modality_table(counts: dict[str, Any], dataset: Path) -> WholeTable:
    """Turns by modality and task, with each modality's share: the numbers of Figure A1."""
    tasks = list(counts["tasks"])
    table = WholeTable("modality", *tasks, "turns", "share", title=f"{escape(str(dataset))}: {counts['rows']:,} rows")
    for modality, count in counts["modalities"].items():
        cells = [f"{counts['modality_tasks'][modality].get(task, 0):,}" for task in tasks]
        table.add_row(escape(modality), *cells, f"{count:,}", f"{count / counts['turns']:.1%}")
    table.add_section()
    table.add_row("all", *(f"{counts['tasks'][task]:,}" for task in tasks), f"{counts['turns']:,}", "100.0%")
    return table


def _detail_table(counts: dict[str, Any]) -> WholeTable:
    """Lengths, boxes per answer, image sizes."""
    table = WholeTable("", "", title="Per turn and per image")
    for label in ("question_words", "answer_words"):
        quantiles = counts[f"{label}_quantiles"]
        table.add_row(
            f"{label.replace('_', ' ')}, quantiles", ", ".join(f"{q}%: {value}" for q, value in quantiles.items())
        )
    boxes = counts["boxes_per_answer"]
    table.add_row("boxes per answer", ", ".join(f"{number}: {count:,}" for number, count in boxes.items()))
    sizes = list(counts["image_sizes"].items())
    more = f" and {len(sizes) - 8} more" if len(sizes) > 8 else ""
    table.add_row("image sizes", ", ".join(f"{size}: {count:,}" for size, count in sizes[:8]) + more)
    table.add_row("images", f"{counts['images']:,}, of which {counts['images_unread']:,} do not open")
    return table
