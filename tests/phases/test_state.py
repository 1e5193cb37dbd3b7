# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The same `output_dir` with other `clinkd_phases`: each model is taken from where it is, none is written over."""

import json

import pytest
from small_run import recipe

from llamafactory_clinkd.phases.content import ContentHashes
from llamafactory_clinkd.phases.state import ProcedureState, trained_model
from llamafactory_clinkd.utils.io import content_hash, read_json, read_jsonl, write_json


ROWS = {"ranks": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


def run(keys):
    from llamafactory.train.tuner import run_exp

    run_exp(keys)


@pytest.mark.slow
def test_predictions_are_of_the_phase_that_is_the_last_one_now(workspace, tmp_path):
    both, alone = tmp_path / "both", tmp_path / "alone"
    run(recipe(workspace, both, clinkd_phases="distill,correct,predict", learning_rate=1e-2))
    corrected = read_jsonl(both / "clinkd" / "predictions.jsonl")
    model = (both / "model.safetensors").read_bytes()
    run(recipe(workspace, both, clinkd_phases="distill,predict", learning_rate=1e-2))
    run(recipe(workspace, alone, clinkd_phases="distill,predict", learning_rate=1e-2))
    found = read_jsonl(both / "clinkd" / "predictions.jsonl")
    assert found == read_jsonl(alone / "clinkd" / "predictions.jsonl") and found != corrected
    assert (both / "model.safetensors").read_bytes() == model
    assert read_json(both / "clinkd" / "state.json")["phases"]["distill"]["folder"] == "clinkd/distill"


@pytest.mark.slow
def test_model_of_the_last_training_is_not_written_over(workspace, tmp_path):
    run(recipe(workspace, tmp_path, clinkd_phases="distill"))
    model = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError) as found:
        run(recipe(workspace, tmp_path, clinkd_phases="distill,correct,predict"))
    assert f"`clinkd_phases: correct, predict`, `model_name_or_path: {tmp_path}` and a new" in str(found.value)
    assert (tmp_path / "model.safetensors").read_bytes() == model


def test_phase_is_not_continued_in_another_folder(workspace, tmp_path):
    record = {"status": "started", "hash": "", "inputs": {}, "folder": "."}
    write_json(tmp_path / "clinkd" / "state.json", {"format": 1, "phases": {"distill": record}})
    with pytest.raises(ValueError, match="`distill` was started in .* belongs in .*clinkd/distill. Change"):
        run(recipe(workspace, tmp_path, clinkd_phases="distill,correct"))


def test_checkpoints_of_another_run_are_not_continued_from(workspace, tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(ValueError, match="checkpoint-2 is of another run: phase `correct` would continue from it"):
        run(recipe(workspace, tmp_path, clinkd_phases="distill,correct"))
    assert not (tmp_path / "clinkd").exists()


def test_state_of_an_earlier_version_is_read_and_a_new_key_reported_once(tmp_path, caplog):
    """An earlier version did not record every key; what it recorded is compared as before."""
    inputs = {"previous": None, "seed": 42, "sasg_candidates": 3}
    record = {"status": "finished", "hash": content_hash(inputs), "inputs": inputs, "outputs": ["clinkd/predictions"]}
    record |= {"started": "", "attempts": 1, "seconds": 3.0}
    write_json(tmp_path / "clinkd" / "state.json", {"format": 1, "phases": {"predict": record, "distill": record}})
    state, newer = ProcedureState(tmp_path / "clinkd", writes=True), {**inputs, "compute_dtype": "torch.bfloat16"}
    assert state.is_finished("predict", inputs, ROWS) and state.is_finished("distill", inputs, ROWS)
    with pytest.raises(ValueError, match="compute_dtype was the default, is 'torch.bfloat16'. Change it back"):
        state.is_finished("distill", newer, ROWS)
    with caplog.at_level("WARNING", logger="llamafactory_clinkd"):
        assert not state.is_finished("predict", newer, ROWS)
    assert "runs again, because the recipe changed: compute_dtype was the default" in caplog.text
    state.start("predict", newer)
    state.finish("predict", ["clinkd/predictions"], 2.0)
    assert ProcedureState(tmp_path / "clinkd", writes=True).is_finished("predict", newer, ROWS)


def test_time_of_a_killed_attempt_is_reported_as_unknown(tmp_path, caplog):
    """Nothing of a killed process records its time."""
    caplog.set_level("INFO", logger="llamafactory_clinkd")
    for _ in range(2):
        ProcedureState(tmp_path, writes=True).start("distill", {})
    assert "The time of phase distill lacks attempts that were killed, whose time is unknown: 1." in caplog.text
    state = ProcedureState(tmp_path, writes=True)
    state.finish("distill", [], 2.0)
    assert (state.phases["distill"]["attempts"], state.phases["distill"]["timed_attempts"]) == (2, 1)


def folder_of(path, *names):
    path.mkdir()
    for name in names:
        (path / name).write_text("{}" if name.endswith(".json") else "weights")
    return path


def test_trained_model_is_the_only_one_in_its_folder(tmp_path):
    whole = folder_of(tmp_path / "whole", "config.json", "model.safetensors")
    adapter = folder_of(tmp_path / "adapter", "adapter_config.json", "adapter_model.safetensors")
    kind = {"adapter": False, "recorded": trained_model(whole, ContentHashes(), adapter=False)}
    assert (
        trained_model(whole, ContentHashes(), **kind) == kind["recorded"] == json.loads(json.dumps(kind["recorded"]))
    )
    trained_model(adapter, ContentHashes(), adapter=True)
    for folder, is_adapter in ((whole, True), (adapter, False)):
        with pytest.raises(ValueError, match="should hold an? (adapter|whole model) and nothing else that is loaded"):
            trained_model(folder, ContentHashes(), adapter=is_adapter)
    for name in ("adapter_config.json", "model.safetensors.index.json"):
        (whole / name).write_text("{}")
        with pytest.raises(ValueError, match=f"a whole model and nothing else that is loaded, found .*{name}"):
            trained_model(whole, ContentHashes(), **kind)
        (whole / name).unlink()
    (whole / "notes.json").write_text("the user's")
    trained_model(whole, ContentHashes(), **kind)
    (whole / "model.safetensors").write_text("WEIGHTS")
    with pytest.raises(ValueError, match="does not hold the model that the phase wrote: weights was"):
        trained_model(whole, ContentHashes(), **kind)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("lora", "full"), ("full", "lora")])
def test_overwriting_one_kind_of_model_with_the_other(workspace, tmp_path, kinds):
    """What the first run left must not be what the second one answers with, and stock's model card must not fail."""
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    keys = {"clinkd_phases": "distill,predict", "kd_method": "none", "ref_model": None, "learning_rate": 1e-2}
    run(recipe(workspace, out, finetuning_type=kinds[0], **keys))
    first = read_jsonl(out / "clinkd" / "predictions.jsonl")
    (out / "notes.md").write_text("the user's own file")
    run(recipe(workspace, out, finetuning_type=kinds[1], overwrite_output_dir=True, **keys))
    run(recipe(workspace, fresh, finetuning_type=kinds[1], **keys))
    found = read_jsonl(out / "clinkd" / "predictions.jsonl")
    assert found == read_jsonl(fresh / "clinkd" / "predictions.jsonl") and found != first
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in fresh.iterdir()} | {"notes.md"}


def test_model_of_another_run_in_the_folder_is_refused_before_the_first_phase(workspace, tmp_path):
    out = folder_of(tmp_path / "out", "adapter_config.json")
    with pytest.raises(ValueError, match="adapter_config.json is of another run: phase `distill` would"):
        run(recipe(workspace, out, clinkd_phases="distill"))
    assert not (out / "clinkd" / "state.json").exists()
