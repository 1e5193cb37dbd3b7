# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The whole procedure under an engine, in processes that torchrun starts, or in forked ones with its variables."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import warm_cli
from small_run import free_port, losses, recipe, start_recipe, write_recipe

from llamafactory_clinkd.utils.io import read_jsonl


PHASES = "pseudo_label,distill,correct,predict"
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "Qwen2VLDecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}

# accelerate gives FSDP to accelerators only. This, executed by every worker first, lets it shard over CPUs.
FSDP_ON_CPU = """
import wrapt

def allow(module):
    stock = module.AcceleratorState.__init__

    def __init__(self, *args, fsdp_plugin=None, **kwargs):
        stock(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        plugin = fsdp_plugin or vars(self).get("fsdp_plugin")  # every new view of the state takes the type anew
        if plugin is not None:
            self.distributed_type, self.fsdp_plugin = module.DistributedType.FSDP, plugin

    module.AcceleratorState.__init__ = __init__

wrapt.register_post_import_hook(allow, "accelerate.state")
"""

# DeepSpeed compiles kernels for processes that share memory, for a minute of processor time; gloo needs none.
WITHOUT_KERNELS = "import sys, deepspeed.comm; sys.modules['deepspeed.comm.torch'].build_shm_op = lambda: None"


def executed_at_start(folder: Path, code: str) -> dict[str, str]:
    """The environment in which every Python process executes ``code`` first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


def deepspeed_config(folder: Path, stage: int) -> str:
    """A ZeRO configuration that partitions every parameter, however small."""
    zero = {"stage": stage, "overlap_comm": False, "reduce_bucket_size": 200000}
    if stage == 3:
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    config = {"zero_optimization": zero, "zero_allow_untested_optimizer": True}
    auto = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    path = folder / f"zero{stage}.json"
    path.write_text(json.dumps(config | dict.fromkeys(auto, "auto")))
    return str(path)


def keys_for(workspace: Path, output_dir: Path, *, processes: int, window: int = 2, **changes: Any) -> dict[str, Any]:
    """A recipe whose optimizer steps see ``window`` rows, whatever the number of processes."""
    return recipe(
        workspace,
        output_dir,
        **{
            "clinkd_phases": PHASES,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": window // processes,
            "per_device_eval_batch_size": 1,
            "pseudo_label_samples": 8,
            "sasg_candidates": 2,
            **changes,
        },
    )


def start(keys: dict[str, Any], *, processes: int, env: dict[str, str] | None = None, **options) -> subprocess.Popen:
    """Starts a recipe in ``processes`` workers of torchrun."""
    output_dir = Path(keys["output_dir"])
    path = write_recipe(output_dir.with_name(f"{output_dir.name}.yaml"), keys)
    return start_recipe(path, processes, env, text=True, **options)


def launch(keys: dict[str, Any], *, processes: int, timeout: float = 400, **env: str) -> subprocess.CompletedProcess:
    """Runs a recipe in ``processes`` workers to its end."""
    process = start(keys, processes=processes, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def fork(keys: dict[str, Any], *, processes: int, first: str = "", timeout: float = 900, **env: str):
    """Runs a recipe in ``processes`` workers with torchrun's variables, which execute ``first`` (:mod:`warm_cli`)."""
    output_dir = Path(keys["output_dir"])
    path = write_recipe(output_dir.with_name(f"{output_dir.name}.yaml"), keys)
    if keys.get("deepspeed"):
        first += WITHOUT_KERNELS
    if processes == 1:
        return warm_cli.run("train", path, timeout=timeout)
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    env |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    ranks = [env | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    return warm_cli.run("train", path, timeout=timeout, ranks=ranks, first=first)


def results(output_dir: Path) -> dict[str, Any]:
    """What a run of all phases left: rows in their order, and the losses of both trainings."""
    folder = output_dir / "clinkd"
    labels = read_jsonl(folder / "pseudo_labels.jsonl")
    predictions = read_jsonl(folder / "predictions.jsonl")
    return {
        "labelled": [row["key"] for row in labels],
        "pseudo_labels": [row["pseudo_label"] for row in labels],
        "recorded": [row["id"] for row in read_jsonl(folder / "corrections" / "round-1.jsonl")],
        "answered": [row["id"] for row in predictions],
        "candidates": [[each["text"] for each in row["candidates"]] for row in predictions],
        "distill": losses(folder / "distill"),
        "correct": losses(output_dir),
        "left_over": sorted(path.name for path in folder.rglob("*.rank*")),
    }
