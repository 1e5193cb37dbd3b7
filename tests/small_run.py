# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A small real run: tiny Qwen2-VL student and teacher, drawn images, a recipe for stock LLaMA-Factory."""

import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import warm_cli
from PIL import Image, ImageDraw
from tiny_models import build_tiny_qwen2vl

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt
from llamafactory_clinkd.utils.environment import cli_command, cli_environment
from llamafactory_clinkd.utils.io import read_json, write_json


WIDTH, HEIGHT, SIDE = 112, 84, 30


def drawn_rows(folder: Path, count: int) -> list[dict[str, Any]]:
    """``count`` rows over drawn images, the four tasks in turn; answers differ in length."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        x, y = (index * 37) % (WIDTH - SIDE), (index * 23) % (HEIGHT - SIDE)
        image = Image.new("RGB", (WIDTH, HEIGHT), (index * 9 % 255, 30, 60))
        ImageDraw.Draw(image).rectangle([x, y, x + SIDE, y + SIDE], fill=(250, 250, 250))
        name = f"ct_{index:03d}.png"
        image.save(folder / "images" / name)
        left, top = x * 1000 // WIDTH, y * 1000 // HEIGHT
        right, bottom = (x + SIDE) * 1000 // WIDTH, (y + SIDE) * 1000 // HEIGHT
        box = f"<box>({left},{top}),({right},{bottom})</box>"
        task, question, answer = [
            ("VG", "Where is the square located in the image?", f"<ref>square</ref>{box}"),
            ("ROC", f"What anatomical structure is present at the {box}?", "Square"),
            ("RC", f"Can you describe the content within the {box}?", "A white square on a dark ground, seen whole."),
            ("MIA", "What can you interpret from the overall image?", "The image shows one white square."),
        ][index % 4]
        rows.append(
            {
                "id": f"ct_{index:03d}",
                "task": task,
                "modality": "ct",
                "image": f"images/{name}",
                "turns": [[question, answer]],
            }
        )
    return rows


def build_workspace(
    folder: Path, *, train: int = 8, test: int = 4, layers: int = 1, own_vocabulary: bool = False, meteor: bool = True
) -> Path:
    """Models and data in ``folder``: ``student`` with ``layers`` decoder layers, ``teacher``, ``data``.

    With ``own_vocabulary`` the models have 1,024 tokens instead of Qwen's, and a run is over in half the time. Without
    ``meteor`` no training row is of the task MIA, so that METEOR, which takes seven seconds, scores no pseudo-label.
    """
    rows = drawn_rows(folder / "data", train + test)
    for row in rows[:train]:
        row["task"] = "RC" if row["task"] == "MIA" and not meteor else row["task"]
    texts = [text for row in rows for text in row["turns"][0]] if own_vocabulary else None
    build_tiny_qwen2vl(folder / "student", hidden_size=32, layers=layers, seed=0, texts=texts)
    build_tiny_qwen2vl(folder / "teacher", hidden_size=64, layers=2, seed=1, texts=texts)
    write_sharegpt(folder / "data" / "train.json", rows[:train])
    write_sharegpt(folder / "data" / "test.json", rows[train:])
    entries = {"tiny_train": dataset_info_entry("train.json"), "tiny_test": dataset_info_entry("test.json")}
    write_dataset_info(folder / "data", entries)
    return folder


def recipe(workspace: Path, output_dir: Path, **changes: Any) -> dict[str, Any]:
    """A recipe over a workspace; a change to ``None`` takes a key out.

    Skips the test if the recipe has correction rounds, which are refused with transformers 5.0 to 5.2.
    """
    keys = {
        "model_name_or_path": str(workspace / "student"),
        "ref_model": str(workspace / "teacher"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "use_clinkd": True,
        "clinkd_phases": "distill",
        "pseudo_label_samples": 4,
        "kd_epochs": 1,
        "correction_similarity": "lexical",
        "sasg_scorer": "logprob",
        "dataset_dir": str(workspace / "data"),
        "dataset": "tiny_train",
        "eval_dataset": "tiny_test",
        "template": "qwen2_vl",
        "cutoff_len": 512,
        "max_new_tokens": 6,
        "output_dir": str(output_dir),
        "overwrite_cache": True,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "report_to": "none",
        "disable_tqdm": True,
    } | changes
    return {key: value for key, value in keys.items() if value is not None}


def write_recipe(path: Path, keys: dict[str, Any]) -> Path:
    """Writes a recipe as JSON, which is YAML too."""
    path.write_text(json.dumps(keys, indent=1), encoding="utf-8")
    return path


def llamafactory_cli(
    *arguments: str,
    env: dict[str, str] | None = None,
    timeout: float = 600,
    file_size: int | None = None,
    fresh: bool = False,
) -> subprocess.CompletedProcess:
    """Runs ``llamafactory-cli`` of this environment; ``file_size`` limits each file it writes, in bytes.

    It is started ``fresh``, or forked from a process that has imported it (:mod:`warm_cli`). With ``env`` or
    ``file_size`` it is always started.
    """
    if not (fresh or env or file_size):
        return warm_cli.run(*arguments, timeout=timeout)
    command = cli_command(*arguments)
    if file_size is not None:
        command = ["prlimit", f"--fsize={file_size}", *command]
    return subprocess.run(
        command,
        env=cli_environment(**{"OMP_NUM_THREADS": "1", **(env or {})}),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_recipe(path: Path, processes: int = 1, env: dict[str, str] | None = None, **popen: Any) -> subprocess.Popen:
    """Starts ``llamafactory-cli train`` in a session of its own; several ``processes`` are workers of torchrun."""
    env = {"OMP_NUM_THREADS": "1", **(env or {})}
    if processes > 1:
        env |= {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(processes), "MASTER_PORT": str(free_port())}
    return subprocess.Popen(cli_command("train", path), env=cli_environment(**env), start_new_session=True, **popen)


def losses(folder: Path) -> list[float]:
    """The logged training losses of a folder that a trainer wrote to."""
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def copy_as_killed(whole: Path, cut: Path) -> None:
    """Copies a finished ``distill`` of four steps as if it had been killed after its third one."""
    shutil.copytree(whole, cut)
    state = read_json(cut / "clinkd" / "state.json")
    state["phases"]["distill"]["status"] = "started"
    write_json(cut / "clinkd" / "state.json", state)
    shutil.rmtree(cut / "checkpoint-4")
    for name in ("model.safetensors", "trainer_state.json"):
        (cut / name).unlink()


def teacher_with_swapped_tokens(workspace: Path, folder: Path) -> tuple[Path, str, str]:
    """A copy of the teacher in which two tokens have each other's ids, and these tokens."""
    teacher = shutil.copytree(workspace / "teacher", folder / "teacher")
    path = teacher / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    one, two = sorted(token for token in vocabulary if token.isalpha())[:2]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return teacher, one, two
