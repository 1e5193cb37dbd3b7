# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The correction rounds on stock LLaMA-Factory, in this process."""

import json

import pytest
from small_run import losses, recipe

from llamafactory_clinkd.utils.io import content_hash, read_json, read_jsonl


def run(keys):
    from llamafactory.train.tuner import run_exp

    run_exp(keys)


def rates(folder):
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]


def correct_only(workspace, output_dir, **changes):
    return recipe(workspace, output_dir, clinkd_phases="correct", ref_model=None, **changes)


def test_the_second_round_begins_with_the_corrected_rows(workspace, tmp_path, monkeypatch):
    """Read from the labels that reach the model."""
    from llamafactory_clinkd.correct.correction_trainer import CorrectionTrainer

    trained, real = [], CorrectionTrainer.compute_loss

    def seen(self, model, inputs, *args, **kwargs):
        for labels in inputs["labels"].tolist():
            tokens = [token for token in labels if token != -100]
            text = self.processing_class.decode(tokens, skip_special_tokens=False)
            trained.append((int(self.state.epoch), text.removesuffix("<|im_end|>\n").removesuffix("<|im_end|>")))
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(CorrectionTrainer, "compute_loss", seen)
    run(correct_only(workspace, tmp_path))
    rows = read_jsonl(tmp_path / "clinkd" / "corrections" / "round-1.jsonl")
    corrected = [row["corrected"] for row in rows if row["status"] == "corrected"]
    first, second = ([text for epoch, text in trained if epoch == number] for number in (0, 1))
    assert sorted(first) == sorted(row["annotation"] for row in rows)
    assert corrected and second[: len(corrected)] == corrected
    assert sorted(second[len(corrected) :]) == sorted(first)


def test_a_seeded_part_of_the_training_set_is_judged(workspace, tmp_path, monkeypatch):
    """Its candidates may still not equal a label of the rows that were not chosen."""
    from llamafactory_clinkd.phases import correct as correction_round
    from llamafactory_clinkd.training.tracked_data import seeded_subset

    real, existing = correction_round.correct_round, []

    def spied(rows, **options):
        existing.extend(options.pop("existing_labels"))
        return real(rows, existing_labels=existing, **options)

    monkeypatch.setattr(correction_round, "correct_round", spied)
    run(correct_only(workspace, tmp_path, correction_max_samples=3, seed=5))
    corrections = tmp_path / "clinkd" / "corrections"
    chosen = [f"{index}:ct_{index:03d}" for index in seeded_subset(8, 3, 5, "correction 1")]
    assert [row["id"] for row in read_jsonl(corrections / "round-1.jsonl")] == chosen
    assert [row["id"] for row in read_jsonl(corrections / "round-1.outputs.jsonl")] == chosen
    assert read_json(corrections / "round-1.summary.json")["rows"] == 3
    data = json.loads((workspace / "data" / "train.json").read_text(encoding="utf-8"))
    assert existing == [row["messages"][1]["content"] for row in data]


def test_the_chosen_part_depends_on_seed_and_round_alone():
    from llamafactory_clinkd.training.tracked_data import seeded_subset

    drawn = seeded_subset(1000, 30, 5, "correction 1")
    assert drawn == sorted(set(drawn)) and len(drawn) == 30
    assert drawn == seeded_subset(1000, 30, 5, "correction 1")
    assert drawn != seeded_subset(1000, 30, 6, "correction 1")
    assert drawn != seeded_subset(1000, 30, 5, "correction 2")
    assert list(seeded_subset(3, 30, 5, "correction 1")) == [0, 1, 2]
    by_hash = sorted(range(1000), key=lambda index: content_hash([5, "é", index]))
    assert seeded_subset(1000, 30, 5, "é") == sorted(by_hash[:30])


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
def test_without_corrections_it_is_stock_fine_tuning(workspace, tmp_path):
    """Against a recipe without one ClinKD key: the same rows at the same rates in the same order.

    Stock computes logits at every position; this project where a token is supervised only, so sums round differently:
    equal to seven digits, not to the last.
    """
    from small_run import drawn_rows

    from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt

    rows = [row for row in drawn_rows(tmp_path / "data", 16) if row["task"] == "MIA"]
    write_sharegpt(tmp_path / "data" / "train.json", rows)
    write_dataset_info(tmp_path / "data", {"tiny_train": dataset_info_entry("train.json")})
    changes = {"dataset_dir": str(tmp_path / "data"), "eval_dataset": None, "per_device_train_batch_size": 1}
    stocks_own = {"rope_variant": "mrope", "image_square": False, "correction_threshold": 0.0}
    run(correct_only(workspace, tmp_path / "rounds", **changes, **stocks_own))
    keys = recipe(workspace, tmp_path / "stock", ref_model=None, num_train_epochs=2, **changes)
    ours = ("use_clinkd", "clinkd_phases", "pseudo_label_samples", "kd_epochs", "correction_similarity", "sasg_scorer")
    run({key: value for key, value in keys.items() if key not in ours})
    assert rates(tmp_path / "rounds") == rates(tmp_path / "stock")
    assert len(losses(tmp_path / "stock")) == 4
    assert losses(tmp_path / "rounds") == pytest.approx(losses(tmp_path / "stock"), rel=1e-6)


@pytest.mark.long  # tests/procedure/test_survives.py kills and resumes every phase
@pytest.mark.parametrize("accumulation", [1, 3])
def test_resumed_in_the_longer_round_equals_an_uninterrupted_run(workspace, tmp_path, accumulation):
    """Step and rate of the resumed step are those of its own round, which stock would look for in another one."""
    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.epoch > 1 and state.global_step == self.at:
                raise InterruptedError

    changes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": accumulation, "save_strategy": "steps"}
    changes |= {"save_steps": 1, "save_total_limit": 2}
    run(correct_only(workspace, tmp_path / "uninterrupted", **changes))
    summary = read_json(tmp_path / "uninterrupted" / "clinkd" / "corrections" / "round-1.summary.json")
    planned, longer = (-(-rows // accumulation) for rows in (8, 8 + summary["corrected"]))
    assert summary["corrected"] > 0 and len(losses(tmp_path / "uninterrupted")) == planned + longer

    stop = Stop()
    stop.at = planned + longer - 2
    with pytest.raises(InterruptedError):
        run_exp(correct_only(workspace, tmp_path / "stopped", **changes), [stop])
    run(correct_only(workspace, tmp_path / "stopped", **changes))
    assert losses(tmp_path / "stopped") == losses(tmp_path / "uninterrupted")
    assert rates(tmp_path / "stopped") == rates(tmp_path / "uninterrupted")
