# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd``: everything except training, which is ``llamafactory-cli train recipe.yaml``."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from . import __version__
from .utils.console import OneLineErrors, console, exit_on_error, quiet_libraries
from .utils.gpus import CPU, GPUS, UTILISATION, choose_gpu


app = typer.Typer(
    cls=OneLineErrors,
    help="ClinKD for LLaMA-Factory: knowledge distillation for medical vision-language models.",
    epilog="Training is `llamafactory-cli train recipe.yaml`. Example: clinkd demo --quick",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
PROBLEMS_SHOWN = 20  # malformed rows that `clinkd evaluate` prints


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"clinkd {__version__}", highlight=False)
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """ClinKD for LLaMA-Factory: knowledge distillation for medical vision-language models."""


@app.command(epilog="Example: clinkd demo --directory runs/demo --quick")
def demo(
    directory: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option(help="Less data and training: 90 seconds instead of 4 minutes.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Open LLaMA Board's Chat tab with the trained model.")] = False,
) -> None:
    """Runs the full pipeline with the small models and the CT questions of this package.

    They are in `llamafactory_clinkd/demo`: the models in `models/base` and `models/teacher`, the questions in `data`.
    """
    if chat:
        from .webui.demo_chat import open_demo_chat

        open_demo_chat(directory)
        return
    from .demo.run_demo import run_demo

    run_demo(directory, quick=quick)


@app.command(epilog="Example: clinkd evaluate saves/run/clinkd/predictions.jsonl --json metrics.json")
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Predictions of ClinKD, BiRD or another tool.")],
    output: Annotated[Path | None, typer.Option("--json", help="Write the metrics to this file.")] = None,
    protocol: Annotated[
        Literal["present", "released"], typer.Option(help="Mean over the modalities present, or as the released code.")
    ] = "present",
    spice_jars: Annotated[Path | None, typer.Option(help="Folder with SPICE's CoreNLP 3.6.0 jars.")] = None,
    answers: Annotated[Path | None, typer.Option(help="The answers to a question file, by question_id.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="The data set of LLaMA-Factory's predictions.")] = None,
    train: Annotated[Path | None, typer.Option(help="Training rows, for the scores of blind answers.")] = None,
    against: Annotated[Path | None, typer.Option(help="Answers to the same questions, to compare with.")] = None,
    export: Annotated[
        tuple[str, Path] | None, typer.Option(help="vlmevalkit or lmms-eval, and the file to write for it.")
    ] = None,
) -> None:
    """Computes the paper's four metrics, and the usual ones of VQA data sets."""
    from .evaluate import comparison_table, evaluate_file, metrics_table, progress_bar
    from .utils.io import write_json

    files = {"answers": answers, "dataset": dataset, "train": train, "against": against, "export": export}
    with exit_on_error(), progress_bar() as progress:
        metrics = evaluate_file(predictions, protocol=protocol, spice_jars=spice_jars, progress=progress, **files)
    console.print(metrics_table(metrics))
    if against is not None:
        console.print(comparison_table(metrics["comparison"], (str(predictions), str(against))))
    for problem in metrics["problems"][:PROBLEMS_SHOWN]:
        line = f"row {problem['row']}, {problem['outcome']}: {escape(problem['reason'])}"
        console.print(line, highlight=False, soft_wrap=True)
    if len(metrics["problems"]) > PROBLEMS_SHOWN:
        console.print(f"and {len(metrics['problems']) - PROBLEMS_SHOWN:,} more rows: --json FILE lists them all.")
    if output is not None:
        write_json(output, metrics)


@app.command(epilog="Example: clinkd select predictions.jsonl --scorer consensus --output ranked.jsonl")
def select(
    predictions: Annotated[Path, typer.Argument(help="predictions.jsonl with stored candidates.")],
    scorer: Annotated[
        list[str], typer.Option(help="open_clip name, name@pretrained, hf-hub:..., a folder, logprob or consensus.")
    ],
    output: Annotated[Path, typer.Option(help="File for the newly ranked predictions, or with --fit for weights.")],
    image_dir: Annotated[Path, typer.Option(help="Folder of relative image paths.")] = Path(),
    region: Annotated[
        Literal["auto", "image", "crop", "highlight", "blur", "mean"], typer.Option(help="What the scorer looks at.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="Device of the scorer, e.g. cuda.")] = "cpu",
    fit: Annotated[bool, typer.Option(help="Fit the weights of several --scorer on validation predictions.")] = False,
) -> None:
    """Ranks stored candidates with another scorer, without generating again."""
    from .select import fit_scorers, load_scorer, rerank

    if fit:
        scorers = {name: load_scorer(name, device=device) for name in scorer}
        for task, figures in fit_scorers(predictions, scorers, output, image_dir, region=region).items():
            means = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "rows")
            console.print(f"{task}, {figures['rows']} rows: {means}", highlight=False, soft_wrap=True)
        console.print(f"Weights in {output}: rank other rows with --scorer {output}.")
        return
    if len(scorer) > 1:
        raise ValueError(f"Found {len(scorer)} scorers: give one, or fit their weights with --fit first.")
    loaded = load_scorer(scorer[0], device=device)
    rows = rerank(predictions, loaded, output, image_dir, region=region, progress=True)
    console.print(f"{len(rows)} rows ranked into {output}.")


@app.command(epilog="Example: clinkd report saves/run_1 saves/run_2 --output compare.html")
def report(
    runs: Annotated[list[Path], typer.Argument(help="One or more output_dir folders.")],
    output: Annotated[Path | None, typer.Option(help="HTML file. Default: clinkd/report.html of the first.")] = None,
    image_dir: Annotated[Path | None, typer.Option(help="Folder of the images, where they have moved.")] = None,
) -> None:
    """Writes a self-contained HTML page about one run, or comparing several."""
    from .report import build_report

    with exit_on_error():
        console.print(f"Report: {build_report(runs, output or runs[0] / 'clinkd' / 'report.html', image_dir)}")


@app.command(epilog="Example: clinkd doctor --plan examples/kd_qlora.yaml --gpu 4090")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    recipe: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Check what this recipe uses and list the text it would send."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Estimate memory, time and disk of this recipe instead."),
    ] = None,
    gpu: Annotated[str, typer.Option(help=f"With --plan: {', '.join([*GPUS, CPU])}.")] = "a100-80",
    gpus: Annotated[int, typer.Option(min=1, help="With --plan: number of GPUs.")] = 1,
    gpu_memory: Annotated[
        float | None, typer.Option(min=1, help="With --plan: memory of each, GiB. Default: that of --gpu.")
    ] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1, help="With --plan: share of the peak FLOPs that training reaches.")
    ] = UTILISATION,
    train_rows: Annotated[
        int | None, typer.Option(min=1, help="With --plan: training rows. Default: counted.")
    ] = None,
    eval_rows: Annotated[int | None, typer.Option(min=1, help="With --plan: test rows. Default: counted.")] = None,
    row_tokens: Annotated[
        int | None, typer.Option(min=1, help="With --plan: tokens of the longest row. Default: `cutoff_len`.")
    ] = None,
    answer_tokens: Annotated[int, typer.Option(min=1, help="With --plan: mean tokens of an answer.")] = 64,
    seams: Annotated[
        bool, typer.Option("--seams", help="Check only the parts of LLaMA-Factory that the plugin patches.")
    ] = False,
) -> None:
    """Checks what is installed, attached and reachable, and shows how to fix what is missing."""
    from .doctor import check_all, check_seams, closing_line, is_ready, read_recipe, results_table

    if plan is not None:
        from .doctor.plan import make_plan, plan_table

        options = {"rows": (train_rows, eval_rows), "row_tokens": row_tokens, "answer_tokens": answer_tokens}
        card = choose_gpu(gpu)
        settings = {"gib": gpu_memory or card.gib, "gpu": card, "utilisation": utilisation, **options}
        settings["on_cpu"] = gpu.lower() == CPU
        with quiet_libraries(logging.WARNING):
            estimate = make_plan(read_recipe(plan), gpus=gpus, **settings)
        console.print_json(data=estimate) if as_json else console.print(plan_table(estimate))
        raise typer.Exit(code=int(not estimate["fits"]))
    with quiet_libraries(logging.WARNING):  # what is wrong with LLaMA-Factory and transformers is in the results
        results = check_seams() if seams else check_all(recipe)
    console.print_json(data=[asdict(each) for each in results]) if as_json else console.print(results_table(results))
    if recipe is None:
        raise typer.Exit(code=int(any(result.state == "broken" for result in results)))
    if not as_json:
        console.print(closing_line(results), highlight=False)
    raise typer.Exit(code=int(not is_ready(results)))


def with_all_commands() -> typer.Typer:
    """The application with the commands that their own folders define."""
    from .attention.figure import attention
    from .data.cli import app as data_app
    from .doctor.new_recipe import PromptingCommand, init
    from .reproduce.cli import reproduce
    from .rope.serve_command import serve

    if not any(group.name == "data" for group in app.registered_groups):
        epilog = 'Example: clinkd attention saves/run --image ct.png --question "Where is the liver?" --word liver'
        app.command(
            epilog="Example: clinkd init recipe.yaml --data rows.parquet --gpu 4090 --gpus 2", cls=PromptingCommand
        )(init)
        app.command(epilog=epilog)(attention)
        app.command(epilog="Example: clinkd reproduce table2 --scale mini --dry-run")(reproduce)
        app.command(epilog="Example: clinkd serve saves/run --python ~/vllm/bin/python -- --max-model-len 4096")(serve)
        app.add_typer(data_app, name="data")
    return app


def main() -> None:
    """Entry point."""
    with_all_commands()()
