# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""SIGTERM, SIGINT and LLaMA Board's Abort, in every phase: nothing is lost, and the same command continues the run."""

import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from small_run import llamafactory_cli, losses, recipe, start_recipe, write_recipe
from transformers import TrainerControl

from llamafactory_clinkd.phases import stopping
from llamafactory_clinkd.phases.context import Run
from llamafactory_clinkd.phases.recipe import RecipeArguments
from llamafactory_clinkd.phases.stopping import ABORTED, StopCallback, load_on_numbered_cpus, stopped_by_signal
from llamafactory_clinkd.utils.io import read_jsonl
from llamafactory_clinkd.utils.ranks import Ranks, Stopped


STATE = SimpleNamespace(global_step=7)
ARGS = SimpleNamespace(device="cpu")


def test_sigterm_asks_and_a_later_one_ends(monkeypatch):
    """The scheduler's and the one that torchrun passes on are one request."""
    ranks, ended = Ranks(), []
    earlier = signal.signal(signal.SIGTERM, lambda *args: ended.append(args))
    try:
        with stopped_by_signal(ranks):
            os.kill(os.getpid(), signal.SIGTERM)
            assert ranks.stop_reason() == "SIGTERM"
            os.kill(os.getpid(), signal.SIGTERM)
            assert not ended
            monkeypatch.setattr(stopping, "SAME_SIGNAL_SECONDS", 0.0)
            os.kill(os.getpid(), signal.SIGTERM)
            assert len(ended) == 1
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(ended) == 2
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_interrupt_asks_and_a_second_one_ends():
    ranks, ended = Ranks(), []
    earlier = signal.signal(signal.SIGINT, lambda *args: ended.append(args))
    try:
        with stopped_by_signal(ranks):
            os.kill(os.getpid(), signal.SIGINT)
            assert ranks.stop_reason() == "SIGINT" and not ended
            os.kill(os.getpid(), signal.SIGINT)
            assert len(ended) == 1
    finally:
        signal.signal(signal.SIGINT, earlier)


def interrupt_twice():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with stopped_by_signal(Ranks()):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)


def test_second_interrupt_is_no_exception():
    """A library's handling of KeyboardInterrupt could wait for ever."""
    process = multiprocessing.get_context("fork").Process(target=interrupt_twice)
    process.start()
    process.join(timeout=20)
    assert process.exitcode == -signal.SIGINT


def test_ignored_interrupt_stays_ignored():
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopped_by_signal(Ranks()):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, earlier)


def test_forked_worker_is_ended_by_its_pool_only():
    """A worker inherits the handler: SIGTERM from its pool ends it, Ctrl-C in the terminal does not."""
    ranks = Ranks()
    with stopped_by_signal(ranks):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        worker.start()
        os.kill(worker.pid, signal.SIGINT)
        worker.join(timeout=1)
        assert worker.is_alive()
        worker.terminate()
        worker.join(timeout=20)
    assert worker.exitcode == 143 and not ranks.stop_reason()


@pytest.mark.parametrize(("stops", "error"), [(True, Stopped), (False, RuntimeError)])
def test_worker_of_datasets_ended_by_the_same_signal_is_no_failure(tmp_path, stops, error):
    def run_sft(*args, **kwargs):
        raise RuntimeError("One of the subprocesses has abruptly died during map operation.")

    finetuning = SimpleNamespace(clinkd_phases=["distill"], image_square=True)
    arguments = RecipeArguments(
        None, None, SimpleNamespace(output_dir=str(tmp_path), disable_tqdm=True), finetuning, None
    )
    run = Run(SimpleNamespace(run=run_sft), arguments, [], Ranks())
    if stops:
        run.ranks.request_stop("SIGTERM")
    with pytest.raises(error) as raised:
        run.run_sft(arguments, None, None)
    assert type(raised.value) is error


def test_other_threads_leave_signals_alone():
    seen = []

    def run():
        with stopped_by_signal(Ranks()):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_training_stops_at_a_step_and_leaves_after_a_checkpoint_to_continue_from():
    ranks, control, args = Ranks(), TrainerControl(), SimpleNamespace(device="cpu", save_only_model=True)
    callback = StopCallback(ranks, lambda: False)
    callback.on_step_end(args, STATE, control)
    callback.on_save(args, STATE, control)
    assert not control.should_save and not control.should_training_stop and args.save_only_model
    ranks.request_stop("SIGTERM")
    callback.on_step_end(args, STATE, control)
    assert control.should_save and control.should_training_stop and args.save_only_model is False
    with pytest.raises(Stopped, match="a checkpoint was saved at step 7"):
        callback.on_save(ARGS, STATE, control)


def test_abort_in_the_middle_of_a_step_waits_for_its_end():
    ranks, control = Ranks(), TrainerControl()
    callback = StopCallback(ranks, lambda: True)
    control.should_training_stop = control.should_epoch_stop = True  # LLaMA-Factory's callback did this just before
    callback.on_substep_end(ARGS, STATE, control)
    assert not control.should_training_stop and not control.should_epoch_stop
    callback.on_step_end(ARGS, STATE, control)
    assert control.should_save and ranks.stop_reason() == ABORTED


def test_tensors_are_loaded_to_a_numbered_cpu(tmp_path):
    torch.save({"moment": torch.arange(3.0)}, tmp_path / "optimizer.pt")
    load_on_numbered_cpus()
    load_on_numbered_cpus()
    found = torch.load(tmp_path / "optimizer.pt", map_location=torch.device("cpu", 0), weights_only=True)
    assert found["moment"].tolist() == [0.0, 1.0, 2.0] and found["moment"].device.type == "cpu"


PHASES = ["pseudo_label", "distill", "correct", "predict"]


def run_with_signals(recipe_path, output_dir, plan, number, **env):
    """Starts the recipe once per ``(phase, sign)`` and sends the signal when the sign is there.

    The signal goes to the worker alone, as LLaMA Board and a node's agent send it. Yields codes and outputs.
    """
    for phase, sign in plan:
        with open(output_dir.with_suffix(".log"), "w+") as log:
            process = start_recipe(
                recipe_path, env=env, stdout=log, stderr=subprocess.STDOUT,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a shell's background
            )  # fmt: skip
            state = output_dir / "clinkd" / "state.json"
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline and process.poll() is None:
                phases = json.loads(state.read_text(encoding="utf-8"))["phases"] if state.is_file() else {}
                if phase in phases and any(output_dir.glob(sign)):
                    process.send_signal(number)
                    break
                time.sleep(0.01)
            process.wait(timeout=120)
            log.seek(0)
            yield process.returncode, log.read()


SIGNS = [
    ("pseudo_label", "clinkd/pseudo_label/answers.jsonl.rank0"),
    ("distill", "clinkd/distill/checkpoint-2/trainer_state.json"),
    ("correct", "clinkd/corrections/round-1.outputs.jsonl.rank0"),
    ("predict", "clinkd/predict/answers.jsonl.rank0"),
]


def keys(workspace, output_dir):
    return recipe(
        workspace, output_dir, clinkd_phases=",".join(PHASES), per_device_eval_batch_size=1, kd_epochs=2,
        per_device_train_batch_size=1, gradient_accumulation_steps=1, pseudo_label_samples=8, sasg_candidates=2,
        save_strategy="steps", save_steps=2,
    )  # fmt: skip


@pytest.mark.long  # tests/engines/test_stop.py stops two ranks
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGABRT"])
def test_stopped_in_every_phase(workspace, tmp_path, name):
    out, whole = tmp_path / "out", tmp_path / "whole"
    out.mkdir()
    path = write_recipe(tmp_path / "recipe.yaml", keys(workspace, out))
    board = {"LLAMABOARD_ENABLED": "1", "LLAMABOARD_WORKDIR": str(out)} if name == "SIGABRT" else {}
    for (code, text), (phase, _) in zip(
        run_with_signals(path, out, SIGNS, getattr(signal, name), **board), SIGNS, strict=True
    ):
        assert code == (0 if board else 128 + getattr(signal, name)), text[-2000:]
        assert f"Stopped by {ABORTED if board else name} at" in text and "The same command continues" in text
        state = json.loads((out / "clinkd" / "state.json").read_text(encoding="utf-8"))["phases"]
        assert state[phase]["status"] == "started" and list(state)[-1] == phase
        if phase == "distill":
            assert "a checkpoint was saved at step" in text
    done = llamafactory_cli("train", str(path))
    assert done.returncode == 0, done.stderr[-2000:]

    from llamafactory.train.tuner import run_exp

    run_exp(keys(workspace, whole))
    for name in ("pseudo_labels.jsonl", "corrections/round-1.jsonl", "predictions.jsonl"):
        assert read_jsonl(out / "clinkd" / name) == read_jsonl(whole / "clinkd" / name), name
    assert losses(out / "clinkd" / "distill") == losses(whole / "clinkd" / "distill")
    assert losses(out) == losses(whole)
