# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The correction rounds on stock LLaMA-Factory, in this process."""

import json

import pytest
from small_run import losses, recipe

from llamafactory_clinkd.run_state import read_json, read_jsonl


def run(keys):
    from llamafactory.train.tuner import run_exp

    run_exp(keys)


def rates(folder):
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]


def correct_only(workspace, output_dir, **changes):
    return recipe(workspace, output_dir, clinkd_phases="correct", ref_model=None, **changes)


@pytest.mark.parametrize("outputs", ["generate", "forward"])
def test_corrected_rows_come_first_and_steps_are_counted(workspace, tmp_path, outputs):
    run(correct_only(workspace, tmp_path, correction_outputs=outputs))
    summary = read_json(tmp_path / "clinkd" / "corrections" / "round-1.summary.json")
    rows = read_jsonl(tmp_path / "clinkd" / "corrections" / "round-1.jsonl")
    assert summary["rows"] == len(rows) == 8 == summary["kept"] + summary["corrected"] + summary["rejected"]
    assert summary["corrected"] > 0, "an untrained model answers nothing right"
    assert {row["status"] for row in rows} <= {"kept", "corrected", "rejected"}
    outputs_of = {row["id"]: row for row in read_jsonl(tmp_path / "clinkd" / "corrections" / "round-1.outputs.jsonl")}
    assert {row["id"]: row["response"] for row in rows} == {
        key: row["candidates"][0]["text"] for key, row in outputs_of.items()
    }
    planned, longer = 2, -(-(8 + summary["corrected"]) // 4)
    assert len(losses(tmp_path)) == planned + longer
    state = json.loads((tmp_path / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["max_steps"] == state["global_step"] == planned + longer and state["epoch"] == 2
    assert rates(tmp_path)[0] == pytest.approx(1e-3) and rates(tmp_path)[2] == pytest.approx(0.5e-3)
    if outputs == "forward":
        texts = {row["response"] for row in rows}
        assert len(texts) > 1 and not any("<|im_end|>" in text for text in texts)


@pytest.mark.slow
def test_without_corrections_it_is_plain_training_to_the_last_digit(workspace, tmp_path):
    """A threshold of 0 on text alone corrects nothing where there is no box."""
    from small_run import drawn_rows

    from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt

    rows = [row for row in drawn_rows(tmp_path / "data", 16) if row["task"] == "MIA"]
    write_sharegpt(tmp_path / "data" / "train.json", rows)
    write_dataset_info(tmp_path / "data", {"tiny_train": dataset_info_entry("train.json")})
    changes = {"dataset_dir": str(tmp_path / "data"), "eval_dataset": None, "per_device_train_batch_size": 1}
    run(correct_only(workspace, tmp_path / "rounds", correction_threshold=0.0, **changes))
    plain = recipe(workspace, tmp_path / "plain", kd_method="none", ref_model=None, kd_epochs=2, **changes)
    run(plain)
    assert read_json(tmp_path / "rounds" / "clinkd" / "corrections" / "round-1.summary.json")["corrected"] == 0
    assert losses(tmp_path / "rounds") == losses(tmp_path / "plain")
    assert rates(tmp_path / "rounds") == rates(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 3])
def test_resumed_in_the_longer_round_it_is_an_undisturbed_run(workspace, tmp_path, accumulation):
    """Step and rate of the resumed step are those of its own round, which stock would look for in another one."""
    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.epoch > 1 and state.global_step == self.at:
                raise InterruptedError

    changes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": accumulation, "save_strategy": "steps"}
    changes |= {"save_steps": 1, "save_total_limit": 2}
    run(correct_only(workspace, tmp_path / "undisturbed", **changes))
    summary = read_json(tmp_path / "undisturbed" / "clinkd" / "corrections" / "round-1.summary.json")
    planned, longer = (-(-rows // accumulation) for rows in (8, 8 + summary["corrected"]))
    assert summary["corrected"] > 0 and len(losses(tmp_path / "undisturbed")) == planned + longer

    stop = Stop()
    stop.at = planned + longer - 2
    with pytest.raises(InterruptedError):
        run_exp(correct_only(workspace, tmp_path / "stopped", **changes), [stop])
    run(correct_only(workspace, tmp_path / "stopped", **changes))
    assert losses(tmp_path / "stopped") == losses(tmp_path / "undisturbed")
    assert rates(tmp_path / "stopped") == rates(tmp_path / "undisturbed")
