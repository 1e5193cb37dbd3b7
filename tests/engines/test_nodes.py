# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Two nodes, and another number of ranks after an interruption."""

import signal
import subprocess

import pytest
from small_run import copy_as_killed, free_port, llamafactory_cli, losses, recipe, start_recipe, write_recipe

from .engine_runs import executed_at_start, launch


pytestmark = pytest.mark.slow


def test_nodes_without_a_common_output_dir_are_told_so(workspace, tmp_path):
    port, nodes = str(free_port()), []
    for node in range(2):
        path = write_recipe(tmp_path / f"{node}.yaml", recipe(workspace, tmp_path / f"node{node}"))
        env = {
            "FORCE_TORCHRUN": "1", "NNODES": "2", "NODE_RANK": str(node), "NPROC_PER_NODE": "1", "MASTER_PORT": port,
            "MASTER_ADDR": "127.0.0.1",
        } | executed_at_start(tmp_path / f"site{node}", SOON)  # fmt: skip
        nodes.append(start_recipe(path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    try:
        texts = [process.communicate(timeout=200)[0] for process in nodes]
    finally:
        for process in nodes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
    assert all(process.returncode not in (0, 143) for process in nodes)
    assert "does not see what rank 0 writes to `output_dir" in texts[1] and "docs/scaling.md" in texts[1]
    assert not any("Stopped by" in text or "continues the run" in text for text in texts)
    assert not any((tmp_path / f"node{node}" / "clinkd" / "state.json").exists() for node in range(2))


# Executed by every worker at its start: a rank waits two seconds instead of a minute for the file of rank 0.
SOON = """
import wrapt

def soon(module):
    module.Ranks.require_shared.__defaults__ = (2.0,)

wrapt.register_post_import_hook(soon, "llamafactory_clinkd.utils.ranks")
"""


@pytest.mark.long
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_training_continues_on_another_number_of_ranks(workspace, tmp_path, first, then):
    """Exactly, if a step sees the same rows; refused, with the way out, if it does not."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def keys(folder, ranks):
        return recipe(
            workspace, folder, kd_epochs=2, save_strategy="steps", save_steps=1, per_device_train_batch_size=1,
            gradient_accumulation_steps=4 // ranks,
        )  # fmt: skip

    def run(keys, ranks):
        if ranks > 1:
            return launch(keys, processes=ranks)
        return llamafactory_cli("train", str(write_recipe(tmp_path / "recipe.yaml", keys)))

    done = run(keys(whole, first), first)
    assert done.returncode == 0, done.stderr[-3000:]
    copy_as_killed(whole, cut)

    refused = run(keys(cut, first), then)  # the number of ranks alone was changed
    assert refused.returncode != 0
    assert f"Continue with `gradient_accumulation_steps: {4 // then}`" in refused.stderr, refused.stderr[-3000:]
    done = run(keys(cut, then), then)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "each step sees the same rows" in done.stderr + done.stdout
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-5) and len(losses(cut)) == 4
