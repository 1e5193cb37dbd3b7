# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which errors lose their traceback: those that this package raises on purpose, and no others."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llamafactory_clinkd.arguments import ClinkdArguments
from llamafactory_clinkd.attach.error_lines import print_error
from llamafactory_clinkd.utils.boxes import TASKS
from llamafactory_clinkd.utils.value_checks import split_list


EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "kd_only.yaml"


def shown(call, capsys):
    """What is printed of the error of ``call``, and whether the stock hook got it."""
    passed_on = []
    with pytest.raises(Exception) as raised:
        call()
    raised.value.add_note("At phase distill.")
    print_error(lambda *error: passed_on.append(error), raised.type, raised.value, raised.tb)
    return capsys.readouterr().err, bool(passed_on)


def test_a_message_for_the_user_is_its_line_and_notes(capsys):
    text, passed_on = shown(lambda: ClinkdArguments(kd_alpha=0.3).check_clinkd(), capsys)
    assert not passed_on and text.startswith("ValueError: `kd_alpha: 0.3` is a ClinKD key")
    assert text.endswith("\nAt phase distill.\n") and "File" not in text


@pytest.mark.parametrize(
    "call", [lambda: int("x"), lambda: split_list(3), lambda: TASKS["x"]], ids=["elsewhere", "a bug inside", "a test"]
)
def test_other_errors_keep_their_traceback(call, capsys):
    assert shown(call, capsys) == ("", True)


def test_the_traceback_is_there_on_request(capsys, monkeypatch):
    monkeypatch.setenv("CLINKD_TRACEBACK", "1")
    assert shown(lambda: ClinkdArguments(kd_alpha=0.3).check_clinkd(), capsys) == ("", True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine's GPU computes in bf16")
def test_bf16_without_a_gpu_is_one_line_of_a_clinkd_recipe_only(tmp_path, capsys):
    """The stock error is left as it is in other recipes."""
    from llamafactory.hparams import get_train_args

    keys = {"stage": "sft", "do_train": True, "model_name_or_path": "x", "dataset": "x", "bf16": True}
    keys |= {"template": "qwen2_vl", "output_dir": str(tmp_path)}
    text, passed_on = shown(lambda: get_train_args(keys | {"use_clinkd": True}), capsys)
    assert not passed_on and text.startswith("ValueError: `bf16: true` needs a GPU") and "Remove the key" in text
    assert shown(lambda: get_train_args(dict(keys)), capsys) == ("", True)


@pytest.mark.slow
def test_a_wrong_recipe_ends_llamafactory_cli_in_one_line():
    command = [Path(sys.executable).with_name("llamafactory-cli"), "train", EXAMPLE, "kd_alpha=-3", "bf16=false"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "`kd_alpha: -3" in done.stderr.strip().splitlines()[-1]
