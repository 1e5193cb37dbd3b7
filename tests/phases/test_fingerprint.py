# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a phase records of a recipe: every key that changes its result, and no default unless it has to."""

import copy
import shutil
from dataclasses import fields

import pytest
from small_run import recipe

from llamafactory_clinkd.arguments import PHASES, TRAINING_PHASES
from llamafactory_clinkd.phases.fingerprint import (
    BEST_MODEL_FIELDS,
    IGNORED,
    changed_inputs,
    dataset_fingerprint,
    phase_inputs,
)
from llamafactory_clinkd.utils.io import sampled_sha256


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
    before = {phase: phase_inputs(phase, arguments, None) for phase in PHASES}
    names = {group: [item.name for item in fields(getattr(arguments, group))] for group in arguments._fields}
    noticed = {}
    for group in arguments._fields:
        for name in names[group]:
            changed = copy.copy(getattr(arguments, group))
            setattr(changed, name, "changed")
            other = arguments._replace(**{group: changed})
            noticed[name] = {phase for phase in PHASES if phase_inputs(phase, other, None) != before[phase]}
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
        "seed", "per_device_eval_batch_size", "load_best_model_at_end"
    ))  # fmt: skip
    assert noticed["seed"] == set(PHASES)


def test_evaluation_settings_count_only_where_they_choose_the_model(workspace):
    other = {"eval_dataset": "tiny_train", "save_steps": 7, "eval_steps": 7, "eval_delay": 1}
    assert inputs_of(workspace) == inputs_of(workspace, **other)
    before, after = (inputs_of(workspace, **SELECTING, save_strategy="epoch", **each) for each in ({}, other))
    changed = {each.split()[0] for each in changed_inputs(before, after)}
    assert changed == {"save_steps", "eval_steps", "eval_delay", "evaluation_files"}
    assert changed - {"evaluation_files"} <= set(BEST_MODEL_FIELDS)


def test_batch_size_counts_where_answers_are_sampled(workspace):
    for mode, changes in {"beam": 0, "sample": 1}.items():
        before = inputs_of(workspace, "predict", sasg_mode=mode)
        after = inputs_of(workspace, "predict", sasg_mode=mode, per_device_eval_batch_size=3)
        assert len(changed_inputs(before, after)) == changes


def test_data_folder_may_move_but_not_its_images_alone(workspace, tmp_path):
    moved = shutil.copytree(workspace / "data", tmp_path / "data")
    assert inputs_of(workspace) == inputs_of(workspace, dataset_dir=str(moved))
    (changed,) = changed_inputs(inputs_of(workspace), inputs_of(workspace, media_dir=str(moved)))
    assert changed == f"media_dir was the default, is '{moved}'"


def test_dataset_names_without_a_file_are_recorded_as_their_entry(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"remote": {"hf_hub_url": "a/b"}}')
    expected = {"remote": '{"hf_hub_url": "a/b"}', "other": "{}"}
    assert dataset_fingerprint("remote, other", str(tmp_path)) == expected
    assert dataset_fingerprint(["remote"], "ONLINE") == {"remote": "{}"} and dataset_fingerprint(None, None) == {}


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


@pytest.mark.parametrize("size", [0, 1, 4096, 64 * 64, 64 * 64 + 1, 1_000_003])
def test_samples_are_of_the_whole_file(tmp_path, size):
    """Any byte counts of a small file; of a large one its size, its ends, and a change that is as long as a gap."""
    path = tmp_path / "weights"

    def digest(content):
        path.write_bytes(content)
        return sampled_sha256(path, blocks=64, block_bytes=64)

    content = bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    found = {digest(content), digest(content + b"x")}
    gap = max(1, size // 63)
    places = [*range(0, size, gap)][:64]
    for place in places:
        found.add(
            digest(content[:place] + bytes(255 - b for b in content[place : place + gap]) + content[place + gap :])
        )
    assert len(found) == 2 + len(places)
