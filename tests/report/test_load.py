# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reading run folders: short names, logs from the right place, states cut off by a crash."""

import json
import shutil

import pytest

from llamafactory_clinkd.report.load import load_runs
from llamafactory_clinkd.report.provenance import describe_fingerprint, describe_model, provenance
from llamafactory_clinkd.utils.io import write_json, write_jsonl

from .run_folder import write_log


def run(folder, phases=None):
    (folder / "clinkd").mkdir(parents=True, exist_ok=True)
    if phases is not None:
        write_json(folder / "clinkd" / "state.json", {"format": 1, "phases": phases})
    return load_runs([folder])[0]


def test_names_tell_runs_apart(tmp_path):
    folders = [tmp_path / name for name in ("one/out", "two/out")]
    for folder in folders:
        (folder / "clinkd").mkdir(parents=True)
    assert [found.name for found in load_runs(folders)] == ["one/out", "two/out"]
    assert [found.name for found in load_runs(folders[:1])] == ["out"]
    assert [found.name for found in load_runs(folders[:1] * 2)] == ["out (1)", "out (2)"]


def test_whole_run_is_read(run_dir):
    found = load_runs([run_dir])[0]
    assert found.missing == {}
    assert [log.phase for log in found.logs] == ["distill", "correct"]
    distilled, corrected = found.logs
    assert distilled.source == "clinkd/distill/trainer_state.json" and corrected.source == "trainer_state.json"
    assert list(distilled.series)[:3] == ["loss", "ce", "kl"] and "kl" not in corrected.series
    assert len(distilled.series["kl"][0]) == 240 and distilled.series["kl"][0][:2] == ([1, 2])
    assert found.setting("kd_alpha") == 0.5 and found.setting("unheard_of") is None
    assert [each.number for each in found.rounds] == [1, 2]
    assert found.predictions[0]["scorer"] == "demo-clip (random weights)"


def test_the_record_of_the_scorer_is_shown(run_dir, tmp_path):
    folder = shutil.copytree(run_dir, tmp_path / "run")
    identity = {
        "name": "tiny",
        "kind": "open_clip, local folder",
        "library": "open_clip_torch 3",
        "weights_sha256": "ab" * 32,
    }
    write_json(folder / "clinkd" / "predictions.scorer.json", {"identity": identity, "region": "image"})
    scorer = dict(provenance(load_runs([folder])[0]))["Candidates scored by"]
    expected = f"demo-clip (random weights); open_clip, local folder; open_clip_torch 3; weights {'ab' * 8}"
    assert scorer == expected
    assert "parsed by" in dict(provenance(load_runs([folder])[0]))["Captions"]
    (folder / "clinkd" / "predictions.scorer.json").write_text("{")
    found = load_runs([folder])[0]
    assert found.scorer is None and "predictions.scorer.json cannot be read" in found.missing["predictions"]


def test_distillation_alone_logs_into_the_output_folder(tmp_path):
    write_log(tmp_path / "out", steps=9, distils=True)
    found = run(tmp_path / "out", {"distill": {"status": "finished", "inputs": {}, "outputs": ["."]}})
    assert [(log.phase, log.source) for log in found.logs] == [("distill", "trainer_state.json")]


def test_without_a_state_the_phase_is_not_guessed(tmp_path):
    for folder in (tmp_path / "out", tmp_path / "out" / "clinkd" / "distill"):
        write_log(folder, steps=3, distils=True)
    assert [log.phase for log in run(tmp_path / "out").logs] == ["distill", "training"]


def test_log_of_an_interrupted_phase_comes_from_its_last_checkpoint(tmp_path):
    for step in (9, 100, 20):
        write_log(tmp_path / "out" / "clinkd" / "distill" / f"checkpoint-{step}", steps=step, distils=True)
    found = run(tmp_path / "out", {"distill": {"status": "started"}, "correct": {"status": "started"}})
    assert found.logs[0].source == "clinkd/distill/checkpoint-100/trainer_state.json"
    assert "Phase correct wrote no trainer_state.json" in found.missing["log_correct"]


def test_stock_log_is_used_when_the_state_is_torn(tmp_path):
    folder = tmp_path / "out" / "clinkd" / "distill"
    write_jsonl(folder / "trainer_log.jsonl", [{"current_steps": 5, "loss": 2.0, "lr": 1e-4}, {"current_steps": 10}])
    (folder / "trainer_state.json").write_text('{"log_', encoding="utf-8")
    log = run(tmp_path / "out").logs[0]
    assert log.series == {"loss": ([5], [2.0]), "learning_rate": ([5], [1e-4])}


def test_a_step_logged_again_after_resuming_counts_once(tmp_path):
    history = [{"step": 2, "loss": 5.0}, {"step": 1, "loss": 9.0}, {"step": 2, "loss": 4.0}]
    write_json(tmp_path / "out" / "clinkd" / "distill" / "trainer_state.json", {"log_history": history})
    assert run(tmp_path / "out").logs[0].series["loss"] == ([1, 2], [9.0, 4.0])


def test_state_without_phases_is_reported(tmp_path):
    write_json(tmp_path / "out" / "clinkd" / "state.json", [])
    assert "has no `phases`" in run(tmp_path / "out").missing["state"]


def test_torn_last_prediction_is_dropped(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "out")
    with open(tmp_path / "out" / "clinkd" / "predictions.jsonl", "a", encoding="utf-8") as f:
        f.write('{"id": "to')
    assert len(load_runs([tmp_path / "out"])[0].predictions) == 60


def test_model_is_described_from_its_files(tmp_path):
    np = pytest.importorskip("numpy")
    from safetensors.numpy import save_file

    assert describe_model(tmp_path) is None
    config = {"model_type": "qwen2_vl", "text_config": {"hidden_size": 128, "num_hidden_layers": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert describe_model(tmp_path) == "qwen2_vl, hidden size 128, 4 layers"
    save_file({"a": np.zeros((30, 50), np.float32), "b": np.zeros(7, np.float16)}, tmp_path / "model.safetensors")
    assert describe_model(tmp_path) == "qwen2_vl, hidden size 128, 4 layers, 1.5 k parameters"
    (tmp_path / "torn.safetensors").write_bytes(b"\x01")
    assert describe_model(tmp_path) == "qwen2_vl, hidden size 128, 4 layers"
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}', encoding="utf-8")
    assert describe_model(tmp_path) == "LORA of rank 8 on an unnamed base"


def test_recorded_weights_are_described():
    assert describe_fingerprint("Qwen/Qwen2-VL-7B-Instruct") == "Qwen/Qwen2-VL-7B-Instruct"
    local = {"weights": [["a", 1_500_000, "0123456789abcdef"], ["b", 500_000]], "configs": ["0123456789abcdef"]}
    assert describe_fingerprint(local) == "a local folder with 2.0 MB of weights, configuration 01234567"
    assert "without weight files" in describe_fingerprint({"weights": [], "configs": []})
