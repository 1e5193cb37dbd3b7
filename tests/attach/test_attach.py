# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Attaching, each import order in a process of its own, on the installed LLaMA-Factory."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from small_run import llamafactory_cli, losses, recipe, write_recipe


def run_python(code: str, **env: str) -> str:
    """Runs code in a fresh interpreter and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


REPORT = """
    import json
    from llamafactory.hparams import parser
    import llamafactory.train.tuner as tuner
    from llamafactory.train.sft import run_sft as exported
    keys = {"use_clinkd" in {f for c in group for f in getattr(c, "__dataclass_fields__", {})}
            for group in (parser._TRAIN_ARGS, parser._INFER_ARGS, parser._EVAL_ARGS)}
    import llamafactory.train.sft.workflow as workflow
    first = globals().get("run_sft", exported)
    print(json.dumps([sorted(keys), exported is tuner.run_sft, hasattr(exported, "__wrapped__"),
                      first is workflow.run_sft, type(workflow).__name__]))
"""


@pytest.mark.parametrize(
    "first",
    [
        "import llamafactory.hparams",
        "import torch",
        "from llamafactory.train.sft import run_sft",
        "import llamafactory.train.tuner",
    ],
)
def test_every_import_order_is_attached(first):
    """A name that was imported first is the wrapper, too."""
    out = run_python(f"{first}\n{textwrap.dedent(REPORT)}")
    assert json.loads(out.splitlines()[-1]) == [[True], True, True, True, "module"]


def test_attach_twice_and_detach_restores_every_object():
    out = run_python(
        """
        import torch  # attaches
        import llamafactory_clinkd.attach as attach
        attach.detach()
        import llamafactory.train.tuner as tuner, llamafactory.train.sft.workflow as workflow
        import llamafactory.hparams.parser as parser, llamafactory.chat.hf_engine as engine
        import llamafactory.chat.chat_model as chat, llamafactory.train.sft as sft
        def picture():
            return [workflow.run_sft, sft.run_sft, tuner.run_sft, tuner.load_model, parser.get_last_checkpoint,
                    parser._parse_args, chat.get_infer_args, engine.HuggingfaceEngine.__init__,
                    *parser._TRAIN_ARGS, *parser._INFER_ARGS, *parser._EVAL_ARGS]
        stock = picture()
        attach.attach(); once = picture()
        attach.attach(); twice = picture()
        assert all(a is b for a, b in zip(once, twice))
        changed = sum(a is not b for a, b in zip(stock, once))
        assert attach.status()["seams"]["llamafactory.hparams.parser"] == "patched", attach.status()
        attach.detach(); back = picture()
        print(changed, all(a is b for a, b in zip(stock, back)), attach.status()["attached"])
        attach.attach()
        print(sum(a is not b for a, b in zip(stock, picture())))
        """
    )
    assert out.splitlines()[-2:] == ["11 True False", "11"]


def test_import_torch_loads_nothing_heavy():
    out = run_python(
        "import torch, sys; print([m for m in ('llamafactory', 'transformers', 'datasets') if m in sys.modules])"
    )
    assert out.splitlines()[-1] == "[]"


def test_help_names_every_key():
    from dataclasses import fields

    from llamafactory_clinkd.arguments import ClinkdArguments

    done = llamafactory_cli("train", "-h", fresh=True)
    if done.returncode and llamafactory_cli("train", "-h", env={"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}).returncode:
        pytest.skip("`llamafactory-cli train -h` of these versions ends with an error without this package too")
    assert done.returncode == 0, done.stderr[-2000:]
    assert [item.name for item in fields(ClinkdArguments) if f"--{item.name}" not in done.stdout] == []


@pytest.fixture
def newer_llamafactory(tmp_path):
    """A folder that makes the installed LLaMA-Factory say it is 0.11.0."""
    info = tmp_path / "llamafactory-0.11.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llamafactory\nVersion: 0.11.0\n")
    return {"PYTHONPATH": str(tmp_path)}


def test_unsupported_version_trains_as_stock_and_fails_only_when_asked(newer_llamafactory):
    out = run_python(
        """
        import llamafactory.train.tuner, llamafactory.train.sft.workflow as workflow
        from llamafactory.hparams.parser import _TRAIN_ARGS, get_train_args
        wrapped = hasattr(workflow.run_sft, "__wrapped__")
        print(wrapped, any("use_clinkd" in c.__dataclass_fields__ for c in _TRAIN_ARGS))
        try:
            get_train_args({"use_clinkd": True})
        except Exception as error:
            print(type(error).__name__, error)
        try:
            get_train_args({"model_name_or_path": "x", "stage": "pt", "predict_with_generate": True})
        except ValueError as error:
            print(error)
        """,
        **newer_llamafactory,
    )
    found = out.splitlines()[-3:]
    assert found[0] == "False False"
    assert "Found llamafactory 0.11.0, required >=0.9.5,<0.10" in found[1] and "pip install" in found[1]
    assert found[2] == "`predict_with_generate` cannot be set as True except SFT."


def test_v1_is_refused(tmp_path, workspace):
    path = write_recipe(tmp_path / "recipe.yaml", recipe(workspace, tmp_path / "out"))
    done = llamafactory_cli("train", str(path), env={"USE_V1": "1"})
    assert done.returncode != 0
    assert "USE_V1=1" in done.stderr and "Unset USE_V1" in done.stderr


STOCK = {"ref_model": None, "use_clinkd": None, "clinkd_phases": None, "pseudo_label_samples": None, "kd_epochs": None}
STOCK |= {"correction_similarity": None, "sasg_scorer": None, "num_train_epochs": 2, "save_strategy": "no"}


@pytest.mark.slow
def test_switched_off_is_stock_to_the_last_digit(tmp_path, workspace):
    found = []
    for name, env in (("attached", {}), ("absent", {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})):
        path = write_recipe(tmp_path / f"{name}.yaml", recipe(workspace, tmp_path / name, **STOCK))
        done = llamafactory_cli("train", str(path), env=env, fresh=True)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(losses(tmp_path / name))
    assert len(found[0]) == 4 and found[0] == found[1]


@pytest.mark.slow
def test_llama_board_starts_it(tmp_path, workspace):
    """The exact process that LLaMA Board starts: `Popen(["llamafactory-cli", "train", ...])` with its environment."""
    (tmp_path / "out").mkdir()
    path = write_recipe(tmp_path / "recipe.yaml", recipe(workspace, tmp_path / "out"))
    done = llamafactory_cli(
        "train", str(path), env={"LLAMABOARD_ENABLED": "1", "LLAMABOARD_WORKDIR": str(tmp_path / "out")}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ClinKD phase 1/1: distill finished" in (tmp_path / "out" / "running_log.txt").read_text(encoding="utf-8")


@pytest.mark.long  # tests/engines has the whole procedure in two workers
def test_torchrun_with_two_workers(tmp_path, workspace):
    """Two ranks on half the accumulation see the same windows, so the losses are those of one rank."""
    single = recipe(workspace, tmp_path / "one", disable_shuffling=True)
    double = recipe(workspace, tmp_path / "two", disable_shuffling=True, gradient_accumulation_steps=1)
    for keys, env in ((single, {}), (double, {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"})):
        path = write_recipe(tmp_path / "recipe.yaml", keys)
        done = llamafactory_cli("train", str(path), env=env)
        assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
