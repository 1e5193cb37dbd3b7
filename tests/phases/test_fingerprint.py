# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a phase records of a recipe: every key that changes its result, and no default unless it has to."""

import copy
import os
import shutil
from dataclasses import fields

import pytest
from small_run import recipe

from llamafactory_clinkd.arguments import PHASES, TRAINING_PHASES
from llamafactory_clinkd.phases.content import ContentHashes
from llamafactory_clinkd.phases.fingerprint import (
    BEST_MODEL_FIELDS,
    IGNORED,
    changed_inputs,
    engine_settings,
    phase_inputs,
)
from llamafactory_clinkd.utils.io import read_json, write_json


def parsed(workspace, **changes):
    from llamafactory.hparams import get_train_args

    from llamafactory_clinkd.phases.recipe import RecipeArguments

    keys = recipe(workspace, workspace / "nowhere", finetuning_type="lora", **changes)
    return RecipeArguments(*get_train_args(keys))


def inputs_of(workspace, phase="distill", **changes):
    return phase_inputs(phase, parsed(workspace, **changes), None)


SELECTING = {"load_best_model_at_end": True, "eval_strategy": "epoch"}


@pytest.fixture(scope="module")
def phases_that_notice(workspace):
    """Changes one field after the other: ``{field: phases whose inputs differ then}``, and all fields by group."""
    arguments = parsed(workspace, sasg_mode="sample", **SELECTING)
    hashes = ContentHashes()
    before = {phase: phase_inputs(phase, arguments, None, hashes) for phase in PHASES}
    names = {group: [item.name for item in fields(getattr(arguments, group))] for group in arguments._fields}
    noticed = {}
    for group in arguments._fields:
        for name in names[group]:
            changed = copy.copy(getattr(arguments, group))
            setattr(changed, name, "changed")
            other = arguments._replace(**{group: changed})
            noticed[name] = {phase for phase in PHASES if phase_inputs(phase, other, None, hashes) != before[phase]}
    return noticed, names


def test_every_field_of_every_group_is_noticed_or_ignored_with_a_reason(phases_that_notice):
    noticed, names = phases_that_notice
    assert sum(map(len, names.values())) == len(noticed) > 350, "a name in two groups would hide one of them"
    ignored = [name for reason in IGNORED for name in IGNORED[reason]]
    assert len(set(ignored)) == len(ignored)
    assert {name for name, phases in noticed.items() if not phases} == set(ignored) & set(noticed)


def test_secrets_are_not_recorded(phases_that_notice):
    secrets = [name for name in phases_that_notice[0] if name.endswith(("_token", "_api_key", "_secret"))]
    assert len(secrets) >= 5 and not any(phases_that_notice[0][name] for name in secrets)


def test_fields_of_one_phase_do_not_restart_another(phases_that_notice):
    noticed, names = phases_that_notice
    for start, phases in {"sasg_": {"predict"}, "kd_": {"distill"}, "correct": {"correct"}}.items():
        changed = [noticed[name] for name in names["finetuning"] if name.startswith(start) and noticed[name]]
        assert changed and all(each == phases for each in changed), start
    assert noticed["spice_jars"] == {"evaluate"}
    assert all(noticed[name] <= set(TRAINING_PHASES) for name in names["training"] if name not in (
        "seed", "per_device_eval_batch_size", "load_best_model_at_end", "deepspeed", "bf16_full_eval",
        "fp16_full_eval", "tf32",
    ))  # fmt: skip
    assert noticed["seed"] == set(PHASES)


def test_evaluation_settings_count_only_where_they_choose_the_model(workspace):
    other = {"eval_dataset": "tiny_train", "save_steps": 7, "eval_steps": 7, "eval_delay": 1, "compute_accuracy": True}
    assert inputs_of(workspace) == inputs_of(workspace, **other)
    before, after = (inputs_of(workspace, **SELECTING, save_strategy="epoch", **each) for each in ({}, other))
    changed = {each.split()[0] for each in changed_inputs(before, after)}
    assert changed == {"save_steps", "eval_steps", "eval_delay", "compute_accuracy", "evaluation_files"}
    assert changed - {"evaluation_files"} <= set(BEST_MODEL_FIELDS)


def test_batch_size_counts_where_answers_are_sampled(workspace):
    for mode, changes in {"beam": 0, "sample": 1}.items():
        before = inputs_of(workspace, "predict", sasg_mode=mode)
        after = inputs_of(workspace, "predict", sasg_mode=mode, per_device_eval_batch_size=3)
        assert len(changed_inputs(before, after)) == changes


def test_length_of_answers_counts_where_distillation_samples_them(workspace):
    for share, changes in {0.0: [], 0.5: ["max_new_tokens was 6, is 9"]}.items():
        before, after = (inputs_of(workspace, kd_on_policy=share, max_new_tokens=tokens) for tokens in (6, 9))
        assert changed_inputs(before, after) == changes


def test_data_folder_may_move_but_not_its_images_alone(workspace, tmp_path):
    moved = shutil.copytree(workspace / "data", tmp_path / "data")
    assert inputs_of(workspace) == inputs_of(workspace, dataset_dir=str(moved))
    (changed,) = changed_inputs(inputs_of(workspace), inputs_of(workspace, media_dir=str(moved)))
    assert changed == f"media_dir was the default, is '{moved}'"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_rslora": True}, "use_rslora was the default, is True"),
        ({"additional_target": "lm_head"}, "additional_target was the default, is ['lm_head']"),
        ({"loraplus_lr_ratio": 16.0}, "loraplus_lr_ratio was the default, is 16.0"),
        ({"lr_scheduler_kwargs": '{"num_cycles": 2}'}, "lr_scheduler_kwargs was the default, is {'num_cycles': 2}"),
        ({"galore_rank": 32}, "galore_rank was the default, is 32"),
        ({"galore_target": "q_proj"}, "galore_target was the default, is ['q_proj']"),
        ({"video_maxlen": 4}, "video_maxlen was the default, is 4"),
        ({"enable_thinking": False}, "enable_thinking was the default, is False"),
        ({"galore_rank": 16, "galore_target": "all", "freeze_trainable_modules": "all"}, None),
        ({"logging_steps": 7, "save_steps": 7}, None),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_changed_key_is_reported(workspace, changes, message):
    changed = changed_inputs(inputs_of(workspace), inputs_of(workspace, **changes))
    assert changed == ([] if message is None else [message])


def test_length_penalty_counts_where_answers_are_generated(workspace):
    for phase, counts in {"pseudo_label": True, "distill": False, "correct": True, "predict": True}.items():
        other = inputs_of(workspace, phase, length_penalty=0.5)
        assert (changed_inputs(inputs_of(workspace, phase), other) != []) == counts, phase


def test_other_adapters_of_the_teacher_at_the_same_path_are_noticed(workspace, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(workspace / "teacher", adapter)
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    before = inputs_of(workspace, ref_model_adapters=str(adapter))
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    (change,) = changed_inputs(before, inputs_of(workspace, ref_model_adapters=str(adapter)))
    assert change.startswith("teacher_adapters was [{")


def test_teacher_trained_again_in_its_folder_is_noticed(workspace, tmp_path):
    """Names, sizes and configuration are the same then; only what the weights are has changed."""
    teacher = tmp_path / "teacher"
    shutil.copytree(workspace / "teacher", teacher)
    before = inputs_of(workspace, ref_model=str(teacher))
    assert changed_inputs(before, inputs_of(workspace, ref_model=str(teacher))) == []
    weights = teacher / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (change,) = changed_inputs(before, inputs_of(workspace, ref_model=str(teacher)))
    assert change.startswith("teacher was {")


def private(workspace, folder):
    """A copy of models and data that a test may change."""
    for name in ("student", "teacher", "data"):
        shutil.copytree(workspace / name, folder / name)
    return folder


def edit_json(path, change):
    content = read_json(path)
    change(content)
    write_json(path, content)


def edited_entry(change):
    return lambda folder: edit_json(folder / "data" / "dataset_info.json", lambda info: change(info["tiny_train"]))


def replaced_image(folder):
    path = sorted((folder / "data" / "images").iterdir())[0]
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=times)  # size and time of change are the old ones


def edited_model(name, file, **values):
    return lambda folder: edit_json(folder / name / file, lambda content: content.update(values))


EDITS = {
    "an image": (replaced_image, "data_media"),
    "num_samples": (edited_entry(lambda entry: entry.update(num_samples=4)), "data_entries"),
    "columns": (edited_entry(lambda entry: entry["columns"].update(system="system")), "data_entries"),
    "tags": (edited_entry(lambda entry: entry["tags"].update(user_tag="person")), "data_entries"),
    "a row": (lambda folder: edit_json(folder / "data" / "train.json", lambda rows: rows.pop()), "data_files"),
    "the processor's sizes": (edited_model("student", "processor_config.json", image_processor={"size": 1}), "model"),
    "a tokenizer file": (edited_model("student", "tokenizer_config.json", model_max_length=7), "model"),
    "a chat template": (lambda folder: (folder / "student" / "chat_template.jinja").write_text("{{ 1 }}"), "model"),
    "the teacher's sizes": (edited_model("teacher", "processor_config.json", image_processor={"size": 1}), "teacher"),
    "a shard index": (
        lambda folder: write_json(folder / "student" / "model.safetensors.index.json", {"weight_map": {}}), "model"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_changed_content_of_a_file_is_noticed(workspace, tmp_path, name):
    edit, key = EDITS[name]
    folder, hashes = private(workspace, tmp_path), ContentHashes()
    before = inputs_of(folder)
    kept = phase_inputs("distill", parsed(folder), None, hashes)
    assert kept == before
    edit(folder)
    assert {change.split()[0] for change in changed_inputs(before, inputs_of(folder))} >= {key}
    assert phase_inputs("distill", parsed(folder), None, hashes) == inputs_of(folder), "an old hash was used"


def test_files_that_nothing_is_computed_from_are_not_noticed(workspace, tmp_path):
    folder = private(workspace, tmp_path)
    before = inputs_of(folder)
    for name in ("student/README.md", "student/trainer_state.json", "student/train_results.json", "student/log.txt"):
        (folder / name).write_text("{}")
    (folder / "data" / "images" / "unused.png").write_bytes(b"")
    shutil.copytree(folder / "student", folder / "again")
    for path in (folder / "data").rglob("*"):
        os.utime(path)
    assert inputs_of(folder) == before
    assert inputs_of(folder, model_name_or_path=str(folder / "again")) == before


@pytest.mark.parametrize("where", ["columns", "eval"])
def test_media_of_every_kind_and_split_are_noticed(workspace, tmp_path, where):
    folder = private(workspace, tmp_path)
    info, frames = folder / "data" / "dataset_info.json", folder / "data" / "frames"
    frames.mkdir()
    (frames / "1.png").write_bytes(b"1")
    (folder / "data" / "a.wav").write_bytes(b"1")
    rows = read_json(folder / "data" / "train.json")
    rows[0] |= {"videos": ["frames"], "sounds": ["a.wav"]}
    write_json(folder / "data" / "media.json", rows)
    columns = read_json(info)["tiny_train"]["columns"] | {"videos": "videos", "audios": "sounds"}
    edit_json(
        info,
        lambda entries: entries.update(media=entries["tiny_train"] | {"file_name": "media.json", "columns": columns}),
    )
    names = {"dataset": "media"} if where == "columns" else {"eval_dataset": "media", **SELECTING}
    for path in (frames / "1.png", frames / "2.png", folder / "data" / "a.wav"):
        before = inputs_of(folder, **names)
        path.write_bytes(b"2")
        (change,) = changed_inputs(before, inputs_of(folder, **names))
        assert change.startswith("data_media was" if where == "columns" else "evaluation_files was")


@pytest.mark.parametrize(
    ("key", "name", "phase"),
    [
        ("correction_prompt", "prompt.md", "correct"),
        ("new_special_tokens_config", "tokens.yaml", "distill"),
        ("generation_config", "generation.json", "distill"),
        ("sasg_scorer", "clip/open_clip_config.json", "predict"),
        ("tokenized_path", "tokens/data.arrow", "distill"),
    ],
)
def test_content_of_any_file_that_the_recipe_names_is_noticed(workspace, tmp_path, key, name, phase):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("one")
    arguments = parsed(workspace)
    group = next(each for each in arguments if hasattr(each, key))
    setattr(group, key, str(path if path.parent == tmp_path else path.parent))
    before = phase_inputs(phase, arguments, "earlier")
    path.write_text("two")
    (change,) = changed_inputs(before, phase_inputs(phase, arguments, "earlier"))
    assert change.startswith(f"{key} (content) was")


def test_adapters_below_adapter_folder_are_noticed(workspace, tmp_path):
    adapter = tmp_path / "all" / "one"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"1")
    arguments = parsed(workspace)
    arguments.model.adapter_name_or_path, arguments.model.adapter_folder = [str(tmp_path / "all")], "one"
    before = phase_inputs("distill", arguments, None)
    (adapter / "adapter_model.safetensors").write_bytes(b"2")
    (change,) = changed_inputs(before, phase_inputs("distill", arguments, None))
    assert change.startswith("adapters was")


def test_deepspeed_file_counts_where_it_sets_more_than_the_engine(tmp_path):
    """Of the shipped kind of file nothing counts; precision, clipping or an optimizer of its own does."""
    path = tmp_path / "ds.json"
    shipped = {
        "train_batch_size": "auto", "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
        "fp16": {"enabled": "auto", "loss_scale": 0}, "bf16": {"enabled": False}, "zero_optimization": {"stage": 2},
    }  # fmt: skip
    write_json(path, shipped)
    assert engine_settings(str(path)) == engine_settings(shipped) == {} and engine_settings(None) is None
    for other in ({"bf16": {"enabled": True}}, {"gradient_clipping": 0.5}, {"optimizer": {"type": "SGD"}}):
        write_json(path, shipped | other)
        assert engine_settings(str(path)) == other


def test_precision_counts_where_answers_are_generated(workspace):
    for phase in ("pseudo_label", "predict"):
        arguments = parsed(workspace)
        arguments.model.compute_dtype = "torch.bfloat16"  # as `bf16: true` sets it
        (change,) = changed_inputs(inputs_of(workspace, phase), phase_inputs(phase, arguments, None))
        assert change == "compute_dtype was the default, is 'torch.bfloat16'"


def test_what_accelerate_launch_sets_counts_where_the_recipe_does_not_set_it(workspace, tmp_path, monkeypatch):
    arguments, bf16 = parsed(workspace), parsed(workspace)
    bf16.training.bf16 = True
    write_json(tmp_path / "ds.json", {"bf16": {"enabled": True}, "zero_optimization": {"stage": 2}})
    launched = {
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_GRADIENT_CLIPPING": "0.5",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "ds.json"),
    }
    for phase in ("distill", "predict"):
        for name in launched:
            monkeypatch.delenv(name, raising=False)
        before, same = (phase_inputs(phase, each, None) for each in (arguments, bf16))
        for name, value in launched.items():
            monkeypatch.setenv(name, value)
            (change,) = changed_inputs(before, phase_inputs(phase, arguments, None))
            assert change.startswith(f"{name if name in change else 'deepspeed'} was the default, is ")
            if name == "ACCELERATE_MIXED_PRECISION":
                assert phase_inputs(phase, bf16, None) == same
            monkeypatch.setenv(name, "none")
            assert phase_inputs(phase, arguments, None) == before
