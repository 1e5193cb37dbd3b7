# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

r"""Whole distillation steps of this package's trainer beside those of other trainers, all in one run.

    python benchmarks/kd_step_peers.py --trl PYTHON --swift PYTHON --nemo PYTHON --json kd_step_peers.json

Each peer's PYTHON is that of a venv of its own (``pip install "trl>=1.16"``, ``pip install ms-swift qwen-vl-utils
msgspec``, ``pip install nemo-automodel``). A step is what a trainer's ``training_step`` does, forward and backward, on
one batch that stock LLaMA-Factory's collator made: random student and teacher in the shape of Qwen2-VL, one image a
row, vision tower frozen, all of the language model trained, no gradient checkpointing, no optimizer.

A method runs in a process of its own; they take turns, and medians over all steps but each run's first count. The
gradient's error is the relative L2 distance over all trained weights from the fp64 gradient of the method's own
objective. A method that fails, or needs more than ``--memory`` in all, is part of the result. A step at full logits
takes up to 15 GiB in fp32.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kd_step_peers_methods import METHODS


HERE = Path(__file__).resolve().parent
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", type=Path, help="Python of a venv with TRL; without it TRL's trainers are left out")
    parser.add_argument("--swift", type=Path, help="Python of a venv with ms-swift; without it ms-swift is left out")
    parser.add_argument("--nemo", type=Path, help="Python of a venv with NeMo AutoModel; without it that is left out")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--rows", type=int, default=2, help="B")
    parser.add_argument("--length", type=int, default=1024, help="L, image tokens included")
    parser.add_argument("--answer", type=int, default=50, help="supervised tokens a row, at its end")
    parser.add_argument("--side", type=int, default=224, help="width and height of an image; 224 is 64 tokens")
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dtype", default="bf16", choices=["fp32", "bf16"], help="of weights and activations")
    parser.add_argument("--small-vocabulary", action="store_true", help="1,024 tokens instead of 151,936, for tests")
    parser.add_argument("--steps", type=int, default=1, help="timed steps of a run, after one that warms up")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each method")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory", type=float, default=9.0, help="GiB that a process may take; one above is killed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        case = {"folder": folder} | {k: v for k, v in vars(options).items() if isinstance(v, int | float | str)}
        build(Path(folder), options)
        for part in ("batch", "reference"):
            found = run(Path(sys.executable), part, case, options)
            if "failed" in found:
                raise SystemExit(f"{part}: {found['failed']}")
        runs = take_turns(case, options)
    print_table({name: summary(found) for name, found in runs.items()})


def build(folder: Path, options: argparse.Namespace) -> None:
    """Models in the shape of Qwen2-VL's and data below ``folder``, with the tests' builders."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    import torch
    from PIL import Image
    from qwen2vl import qwen2vl_config, special_ids
    from small_run import drawn_rows
    from tiny_models import build_tiny_qwen2vl
    from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

    from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt

    rows = drawn_rows(folder / "data", options.rows)
    texts = [text for row in rows for text in row["turns"][0]] if options.small_vocabulary else None
    for seed, name in enumerate(("student", "teacher")):
        build_tiny_qwen2vl(folder / name, texts=texts)  # tokenizer and processor; the weights are replaced
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        config = qwen2vl_config(
            hidden_size=options.hidden,
            layers=options.layers,
            heads=max(2, options.hidden // 128),
            kv_heads=2,
            intermediate_size=options.hidden * 35 // 6,
            vocab_size=len(tokenizer) if options.small_vocabulary else 151936,
            tokens=special_ids(tokenizer),
            vision={"depth": 4, "embed_dim": 320, "num_heads": 4},
            tie_word_embeddings=True,
        )
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
        with torch.no_grad():  # sharper distributions than those of random weights, which are almost uniform
            model.model.language_model.norm.weight.fill_(4.0)
        model.to({"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]).save_pretrained(folder / name)
        del model
    draw, words = random.Random(0), words_of(tokenizer)
    for row in rows:
        path = folder / "data" / row["image"]
        with Image.open(path) as image:
            image.resize((options.side, options.side)).save(path)
        # the question is cut to fit; the template ends an answer with an end token and a line break
        lengths = (options.length, options.answer - 2)
        row["turns"] = [[" ".join(draw.choices(words, k=length)) for length in lengths]]
    write_sharegpt(folder / "data" / "train.json", rows)
    write_dataset_info(folder / "data", {"train": dataset_info_entry("train.json")})


def words_of(tokenizer: Any) -> list[str]:
    """Words that are one token, with a space before them and without."""
    tokens = (tokenizer.decode([index]) for index in range(min(len(tokenizer), 20000)))
    words = dict.fromkeys(token.strip() for token in tokens if token.strip().isascii() and token.strip().isalpha())
    return [word for word in words if all(len(tokenizer.encode(text)) == 1 for text in (word, f" {word}"))]


def take_turns(case: dict[str, Any], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """All runs by method; a method that fails once is not tried again."""
    pythons = {"own": Path(sys.executable), "trl": options.trl, "swift": options.swift, "nemo": options.nemo}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.methods}
    for _ in range(options.repeats):
        for name, found in runs.items():
            python = pythons[METHODS[name].environment]
            if python is None:
                continue
            if not any("failed" in each for each in found):
                found.append(run(python, name, case, options))
                print(name, json.dumps(found[-1]), flush=True)
                if options.json:
                    write(options, runs)
    return {name: found for name, found in runs.items() if found}


def write(options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> None:
    """The JSON so far, so that a run that is cut short keeps what it has."""
    settings = {key: value for key, value in vars(options).items() if not isinstance(value, Path)}
    machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "load": os.getloadavg()}
    table = {name: summary(found) for name, found in runs.items() if found}
    found = {"machine": machine | {"torch": version("torch")}, "settings": settings, "table": table, "runs": runs}
    options.json.write_text(json.dumps(found, indent=1) + "\n")


def run(python: Path, method: str, case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One run of a method in its own process."""
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1", "USE_HF": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python), str(HERE / "kd_step_peers_methods.py"), json.dumps(case | {"method": method})]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(command, env=environment, stdout=out, stderr=err, text=True)
        while child.poll() is None:
            try:
                child.wait(0.1)
            except subprocess.TimeoutExpired:
                if resident_bytes(child.pid) > options.memory * GIB:
                    child.kill()
                    child.wait()
                    return {"failed": f"left out: it takes more than {options.memory:g} GiB"}
        lines, errors = (found.seek(0) or found.read().strip().splitlines() for found in (out, err))
    if child.returncode != 0:
        print(method, *errors[-20:], sep="\n", file=sys.stderr)
        return {"failed": f"exit {child.returncode}: {(errors or ['no message'])[-1]}"}
    return json.loads(lines[-1])


def resident_bytes(pid: int) -> int:
    """Private resident memory of a process; 0 once it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over all timed steps; the largest peak and error."""
    if any("failed" in each for each in runs):
        return {"failed": next(each["failed"] for each in runs if "failed" in each)}
    steps = [step for each in runs for step in each["steps"]]
    medians = {key: round(statistics.median(step[key] for step in steps), 3) for key in ("seconds", "cpu_seconds")}
    return medians | {
        "peak_mib": round(max(step["peak_mib"] for step in steps)),
        "gradient_error": max((each["gradient_error"] for each in runs), key=lambda error: error or 0.0),
        "version": runs[0]["version"],
    }


def print_table(table: dict[str, dict[str, Any]]) -> None:
    """The table of the documentation, in Markdown; ratios are ours over the method's."""
    ours = table.get("ours", {})
    columns = ("step", "s", "CPU s", "peak GiB", "gradient error", "ours / it: CPU s", "ours / it: memory")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name, row in table.items():
        title = METHODS[name].title
        if "failed" in row:
            print(f"| {title} | {row['failed']} | | | | | |")
            continue
        ratios = [f"{ours[key] / row[key]:.2f}" if key in ours else "" for key in ("cpu_seconds", "peak_mib")]
        cells = [f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}", f"{row['peak_mib'] / 1024:.2f}"]
        error = "" if row["gradient_error"] is None else f"{100 * row['gradient_error']:.4g} %"
        print("| " + " | ".join([title, *cells, error, *ratios]) + " |")


if __name__ == "__main__":
    main()
