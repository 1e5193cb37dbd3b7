# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Forks 16 ranks that run the package's procedure with a stub in place of the model, and reports how each ended.

Reads scenarios as JSON lines and answers each with a JSON line. The package is imported once, and each scenario forks
anew. Every rank stops at its row :data:`HELD` until all are there and the scenario has happened.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import torch
from llamafactory.train.sft import workflow as stock_workflow

from llamafactory_clinkd.generation.generate import merge_all
from llamafactory_clinkd.generation.shards import read_shards, shard_path
from llamafactory_clinkd.phases import runner
from llamafactory_clinkd.phases.state import ProcedureState
from llamafactory_clinkd.phases.stock_sft import StockWorkflow
from llamafactory_clinkd.utils.io import append_jsonl
from llamafactory_clinkd.utils.ranks import Ranks
from llamafactory_clinkd.utils.row_index import RowNumbers


SIZE, ROWS, HELD = 16, 160, 3
IDS = [f"row-{number:03d}" for number in range(ROWS)]
Ranks.__init__.__kwdefaults__ |= {"beat": 0.5, "silent": 10.0, "grace": 5.0}  # as documented, but shorter


class Arguments(SimpleNamespace):
    """What `run_procedure` reads of a recipe."""

    def _replace(self, **changes):
        return Arguments(**{**vars(self), **changes})


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


def generate(run, scenario, folder):
    """Phase `predict`: each rank answers its rows, rank 0 merges the files and works on alone."""
    rank, out_path, numbers = run.ranks.rank, run.folder / "answers.jsonl", RowNumbers(IDS)
    done = read_shards(out_path, numbers).good
    run.ranks.wait("answers")
    run.folder.mkdir(parents=True, exist_ok=True)
    for count, number in enumerate([number for number in range(ROWS) if not done[number]][rank::SIZE]):
        if run.should_stop():
            break
        if count == HELD and scenario["what"] != "nothing":
            (folder / f"at-{rank}").touch()
            wait_for(folder / "go")
            if rank == scenario["rank"]:
                happen(scenario, folder)
        append_jsonl(shard_path(out_path, rank), [{"id": IDS[number], "text": f"answer {number}"}])
    merge_all(out_path, numbers, rank, lambda: run.ranks.wait("answers"))
    if rank == 0:
        with run.ranks.long_running("the ranking"):
            if scenario["what"] == "rank 0 works alone":
                wait_for(folder / "worked")
    run.ranks.wait("the ranking")
    return [run.relative(out_path)]


def happen(scenario, folder):
    if scenario["what"] == "error":
        raise KeyError("the planned failure")
    if scenario["what"] == "node lost":
        os.kill(scenario["agent"], signal.SIGKILL)
    if scenario["what"] in ("kill", "node lost"):
        os.kill(os.getpid(), signal.SIGKILL)
    if scenario["what"] == "late":
        wait_for(folder / "never")


def work(rank, port, scenario, folder):
    """One rank, as torchrun starts it."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(SIZE), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    log = os.open(folder / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.distributed.init_process_group("gloo")
    phase = SimpleNamespace(run_phase=lambda run: generate(run, scenario, folder))

    def phases(run):
        state = ProcedureState(run.folder, writes=rank == 0)
        inputs = {"previous": None}
        if not state.is_finished("predict", inputs, None):
            runner._run_phase(run, state, "predict", inputs, "predict")

    runner.import_module = lambda name, package: phase
    runner.check_recipe = lambda arguments: None
    runner.with_saved_positions = lambda model, finetuning: finetuning
    runner._run_phases = phases
    training = SimpleNamespace(
        output_dir=str(folder / "out"), ddp_timeout=scenario["timeout"], seed=0, per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
    )  # fmt: skip
    arguments = Arguments(training=training, finetuning=SimpleNamespace(clinkd_phases=["predict"]), model=None)
    runner.run_procedure(StockWorkflow(stock_workflow, None), arguments, [])


def host(port):
    """The store of all ranks, which torchrun's agent on the first node has."""
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    signal.pause()
    del store


def forked(work, *arguments):
    """The id of a new process."""
    process = os.fork()
    if process:
        return process
    code = 0
    try:
        work(*arguments)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


def play(scenario):
    """Exit codes by rank (negative: the signal), and the seconds from the event to each end."""
    folder = Path(scenario["folder"])
    for path in [*folder.glob("at-*"), folder / "go", folder / "worked"]:
        path.unlink(missing_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scenario["agent"] = agent = forked(host, port)
    processes = {forked(work, rank, port, scenario, folder): rank for rank in range(SIZE)}
    ids = {rank: process for process, rank in processes.items()}
    codes, seconds, event, deadline = {}, {}, time.monotonic(), time.monotonic() + scenario["limit"]
    happened = scenario["what"] == "nothing"
    while len(codes) < SIZE and time.monotonic() < deadline:
        if not happened and all((folder / f"at-{rank}").exists() for rank in range(SIZE)):
            happened, event = True, time.monotonic()
            for rank in scenario.get("terminated", []):
                os.kill(ids[rank], signal.SIGTERM)
            (folder / "go").touch()
        if happened and time.monotonic() - event > scenario["timeout"] + 2:
            (folder / "worked").touch()
        process, status = os.waitpid(-1, os.WNOHANG)
        if process in processes:
            codes[processes[process]] = os.waitstatus_to_exitcode(status)
            seconds[processes[process]] = time.monotonic() - event
        elif process == agent:
            agent = None
        else:
            time.sleep(0.01)
    if agent is not None:
        os.kill(agent, signal.SIGKILL)
        os.waitpid(agent, 0)
    for rank in set(range(SIZE)) - set(codes):
        os.kill(ids[rank], signal.SIGKILL)
        os.waitpid(ids[rank], 0)
    return {"codes": [codes.get(rank) for rank in range(SIZE)], "seconds": [seconds.get(rank) for rank in range(SIZE)]}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(play(json.loads(line))), flush=True)
