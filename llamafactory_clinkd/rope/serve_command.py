# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd serve``: the command that serves a trained model with vLLM, checked before its weights are loaded."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..utils.console import console, exit_on_error
from ..utils.io import read_json
from .position_file import is_stock, read_rope_config
from .serve_template import served_template
from .vllm_plugin import GROUP, inactive


_CHECK = (
    "import json, sys; from llamafactory_clinkd.rope.vllm_plugin import inactive; "
    "print(json.dumps(inactive(json.loads(sys.argv[1]))))"
)
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1"}  # otherwise vLLM reports its use to its authors' server


def serve(
    run: Annotated[Path, typer.Argument(help="The output_dir of a run, or a model folder.")],
    python: Annotated[
        str | None,
        typer.Option(envvar="CLINKD_VLLM_PYTHON", help="The python of the environment with vLLM. Default: this one."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8000,
    template: Annotated[
        str | None, typer.Option(help="LLaMA-Factory's template of the training. Default: what the run recorded.")
    ] = None,
    execute: Annotated[bool, typer.Option("--run", help="Run the command instead of printing it.")] = False,
    more: Annotated[list[str] | None, typer.Argument(help="After --, options for vLLM itself.")] = None,
) -> None:
    """Prints, or runs, the command that serves a model with vLLM under its positions, images and prompts."""
    with exit_on_error():
        command, note = serve_command(run, python or sys.executable, port, more or [], template)
    if note:
        typer.echo(note, err=True)
    if execute:
        os.execvpe(command[0], command, {**os.environ, **ENVIRONMENT})
    variables = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
    console.print(f"{variables} {shlex.join(command)}", highlight=False, soft_wrap=True, markup=False)


def serve_command(
    folder: Path, python: str, port: int, more: list[str], template: str | None = None
) -> tuple[list[str], str]:
    """The arguments of vLLM's server for a model folder, and what to say about its chat template.

    Raises:
        ValueError: If the folder holds no whole model, or vLLM under ``python`` would answer wrongly for it.
    """
    if (folder / "adapter_config.json").exists():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        raise ValueError(
            f"{folder} holds an adapter, and vLLM takes positions and images from a whole model's folder only. Merge "
            f"it first: llamafactory-cli export --model_name_or_path {base} --adapter_name_or_path {folder} "
            "--template TEMPLATE --export_dir MERGED, then `clinkd serve MERGED --template TEMPLATE`."
        )
    if not (folder / "config.json").exists():
        raise ValueError(
            f"{folder} holds no config.json: expected the output_dir of a finished run or a model folder."
        )
    settings = read_rope_config(folder)
    if settings is not None and not (is_stock(settings) and not settings.get("image_square")):
        if reason := _ask_environment(python, settings):
            raise ValueError(
                f"vLLM under {python} would answer wrongly for {folder}, which has `rope_variant: "
                f"{settings['variant']}`: {reason}. See docs/serving.md."
            )
    chat = served_template(folder, template, more)
    # Without `--generation-config vllm` the model's generation_config.json changes what a request asks for.
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--host", "127.0.0.1",
        "--port", str(port), "--generation-config", "vllm", *chat.options, *more,
    ]  # fmt: skip
    return command, chat.note


def _ask_environment(python: str, settings: dict[str, Any]) -> str:
    """Why vLLM under this python cannot serve a model with these settings; empty if it can."""
    if Path(python).resolve() == Path(sys.executable).resolve() and Path(python).parent == Path(sys.executable).parent:
        return inactive(settings)
    try:
        result = subprocess.run(
            [python, "-c", _CHECK, json.dumps(settings)], capture_output=True, text=True, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{python} cannot be run ({type(error).__name__})"
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        return (
            f"the plugin ({GROUP}) is not there ({last}); run `{python} -m pip install --no-deps llamafactory-clinkd`"
        )
    return json.loads(result.stdout)
