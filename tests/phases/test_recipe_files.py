# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a later phase would find missing is found, and named, before the first phase."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from small_run import recipe, teacher_with_swapped_tokens

from llamafactory_clinkd.phases.recipe import RecipeArguments
from llamafactory_clinkd.phases.recipe_files import check_best_model, check_datasets, check_model_path, check_template
from llamafactory_clinkd.phases.validation import check_recipe


def run(keys):
    from llamafactory.train.tuner import run_exp

    run_exp(keys)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"eval_dataset": "tiny_tst"},
            ["eval_dataset: tiny_tst", "tiny_test, tiny_train", "Did you mean"],
        ),
        ({"dataset": "tiny_train,other"}, ["dataset: other", "tiny_test, tiny_train"]),
        ({"dataset_dir": "nowhere"}, ["dataset_dir: nowhere", "dataset_info.json"]),
        ({"template": "qwen2vl"}, ["template: qwen2vl", "one of", "Did you mean `qwen2_vl`"]),
        ({"media_dir": "./nowhere"}, ["media_dir: ./nowhere", "not a folder"]),
        ({"adapter_name_or_path": "./a", "finetuning_type": "lora"}, ["adapter_name_or_path: ./a", "does not exist"]),
        (
            {"correction_similarity": "sentence", "correction_similarity_model": "./no"},
            ["correction_similarity_model"],
        ),
        ({"clinkd_phases": "distill,evaluate"}, ["distill,evaluate", "predictions.jsonl", "Add predict"]),
        ({"kd_cache": "hidden", "fsdp": "full_shard"}, ["kd_cache: hidden", "FSDP"]),
        ({"packing": True, "rope_variant": "mcg"}, ["`packing` needs", "teacher_rope_variant: mcg"]),
        ({"learning_rate": float("nan")}, ["learning_rate: nan", "a finite number"]),
        ({"metric_for_best_model": "kl", "eval_strategy": "epoch"}, ["metric_for_best_model: kl", ": loss"]),
        ({"early_stopping_steps": 1}, ["early_stopping_steps: 1", "load_best_model_at_end"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_recipe(workspace, tmp_path, changes, expected):
    keys = {"clinkd_phases": "pseudo_label,distill,correct,predict,evaluate"} | changes
    with pytest.raises((ValueError, FileNotFoundError)) as found:
        run(recipe(workspace, tmp_path / "out", **keys))
    assert [part for part in expected if part not in str(found.value)] == []
    assert not (tmp_path / "out" / "clinkd" / "state.json").exists()


def data_of(folder, info, **keys):
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return SimpleNamespace(**{"dataset_dir": str(folder), "dataset": ["a"], "eval_dataset": None} | keys)


@pytest.mark.parametrize(
    ("entry", "content", "expected"),
    [
        ({"file_name": "a.json"}, None, "a.json of data set `a` does not exist"),
        ({"file_name": "a.json"}, "", "a.json of data set `a` is empty"),
        ({"file_name": "a.xml"}, "<a/>", "not of a type that is read: arrow, csv, json"),
        ({"columns": {}}, None, "has no `file_name`"),
    ],
)
def test_data_file(tmp_path, entry, content, expected):
    if content is not None:
        (tmp_path / entry["file_name"]).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        check_datasets(data_of(tmp_path, {"a": entry}))


def test_data_of_a_hub_and_data_that_are_there(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "one.jsonl").write_text("{}")
    info = {"a": {"file_name": "a.json"}, "b": {"hf_hub_url": "some/where"}, "c": {"file_name": "parts"}}
    check_datasets(data_of(tmp_path, info, eval_dataset=["b", "c"]))
    check_datasets(SimpleNamespace(dataset_dir="ONLINE", dataset=["some/where"], eval_dataset=None))
    check_template(None)


def test_model_folder_without_some_of_its_weights(workspace, tmp_path):
    student = shutil.copytree(workspace / "student", tmp_path / "student")
    check_model_path("ref_model", str(student))
    weights = student / "model.safetensors"
    weights.rename(student / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (student / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(FileNotFoundError, match="`ref_model: .*lacks model-00002-of-00002.safetensors"):
        check_model_path("ref_model", str(student))
    (student / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights"):
        check_model_path("ref_model", str(student))


@pytest.mark.parametrize("key", ["model_name_or_path", "ref_model", "adapter_name_or_path"])
def test_a_home_folder_that_stock_does_not_expand(workspace, monkeypatch, key):
    monkeypatch.setenv("HOME", str(workspace))
    with pytest.raises(FileNotFoundError, match=f"`{key}: ~/student`: .*no `~`. Write {workspace}/student"):
        check_model_path(key, "~/student")


def test_a_data_set_that_is_there_twice(tmp_path):
    data = data_of(tmp_path, {"a": {"file_name": "a.json"}})
    (tmp_path / "a.json").write_text("[{}]")
    check_datasets(data)
    (tmp_path / "dataset_info.json").write_text('{"a": {"file_name": "a.json"}, "a": {"file_name": "b.json"}}')
    with pytest.raises(ValueError, match="dataset_info.json .*the key 'a' occurs twice"):
        check_datasets(data)


def test_index_of_weights_that_are_not_read(workspace, tmp_path):
    """A download without `*.bin` keeps the index of these."""
    student = shutil.copytree(workspace / "student", tmp_path / "student")
    (student / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}}))
    check_model_path("model_name_or_path", str(student))
    (student / "model.safetensors").rename(student / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"lacks pytorch_model-1.bin of pytorch_model.bin.index.json"):
        check_model_path("model_name_or_path", str(student))


def test_adapter_below_adapter_folder(tmp_path):
    (tmp_path / "all" / "one").mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "all" / "one" / name).write_text("{}")
    check_model_path("adapter_name_or_path", str(tmp_path / "all"), "one")
    with pytest.raises(FileNotFoundError, match=r"all` with `adapter_folder: two` does not exist"):
        check_model_path("adapter_name_or_path", str(tmp_path / "all"), "two")


@pytest.mark.parametrize(
    "changes",
    [
        {"clinkd_phases": "predict", "ref_model": "./gone", "ref_model_adapters": "./gone"},
        {"clinkd_phases": "distill", "kd_method": "none", "ref_model": "./gone"},
        {"clinkd_phases": "predict", "early_stopping_steps": 3},
        {"clinkd_phases": "correct", "kd_teacher_offload": True, "kd_method": "vkd", "ref_model": "./gone"},
    ],
    ids=str,
)
def test_keys_of_phases_that_do_not_run_refuse_nothing(workspace, tmp_path, monkeypatch, changes):
    """A recipe of one phase may keep the keys of the others, whose teacher may be on another machine."""
    from llamafactory.hparams import get_train_args

    parsed = RecipeArguments(*get_train_args(recipe(workspace, tmp_path / "out", **changes)))
    if changes.get("kd_teacher_offload"):
        parsed.training.deepspeed, parsed.training.fp16 = str(tmp_path / "zero2.json"), True
        (tmp_path / "zero2.json").write_text("{}")
        monkeypatch.setattr(type(parsed.training), "device", torch.device("cuda"))  # fp16 is refused on a CPU
    check_recipe(parsed)


def test_metrics_that_exist():
    training = SimpleNamespace(eval_strategy="steps", metric_for_best_model="eval_accuracy")
    finetuning = SimpleNamespace(compute_accuracy=True, early_stopping_steps=3)
    check_best_model(training, finetuning)
    finetuning.compute_accuracy = False
    with pytest.raises(ValueError, match="Expected a metric of the evaluations: loss; `compute_accuracy: true` adds"):
        check_best_model(training, finetuning)
    training.metric_for_best_model = "loss"
    check_best_model(training, finetuning)


def test_teacher_with_another_tokenizer_is_found_before_it_labels(workspace, tmp_path):
    teacher, _, _ = teacher_with_swapped_tokens(workspace, tmp_path)
    with pytest.raises(ValueError, match="2 tokens have other ids"):
        run(recipe(workspace, tmp_path / "out", ref_model=str(teacher), clinkd_phases="pseudo_label,distill"))
    assert not (tmp_path / "out" / "clinkd" / "pseudo_label").exists()


@pytest.mark.parametrize("fault", ["image", "json", "column"])
def test_evaluation_rows_are_read_before_the_first_phase(workspace, tmp_path, fault):
    data = shutil.copytree(workspace / "data", tmp_path / "data")
    rows = json.loads((data / "test.json").read_text(encoding="utf-8"))
    if fault == "image":
        (data / rows[1]["images"][0]).unlink()
    elif fault == "json":
        (data / "test.json").write_text('[{"messages": ')
    else:
        (data / "test.json").write_text(json.dumps([{"text": "no messages"}]))
    with pytest.raises(Exception, match=r"test\.json, row 2|JSON|generating the dataset|messages"):
        run(recipe(workspace, tmp_path / "out", clinkd_phases="distill,predict", dataset_dir=str(data)))
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "clinkd" / "state.json").exists()
