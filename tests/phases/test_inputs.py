# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a phase records of a recipe: every key that changes its result, and no default that it need not."""

import shutil

import pytest
from small_run import recipe

from llamafactory_clinkd.phases.fingerprint import changed_inputs, phase_inputs
from llamafactory_clinkd.utils.io import sampled_sha256


def inputs_of(workspace, phase="distill", **changes):
    from llamafactory.hparams import get_train_args

    from llamafactory_clinkd.phases.recipe import RecipeArguments

    keys = recipe(workspace, workspace / "nowhere", finetuning_type="lora", **changes)
    return phase_inputs(phase, RecipeArguments(*get_train_args(keys)), None)


@pytest.mark.parametrize(
    ("changes", "told"),
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
def test_changed_key_is_told(workspace, changes, told):
    found = changed_inputs(inputs_of(workspace), inputs_of(workspace, **changes))
    assert found == ([] if told is None else [told])


def test_length_penalty_counts_where_answers_are_generated(workspace):
    for phase, counts in {"pseudo_label": True, "distill": False, "correct": True, "predict": True}.items():
        other = inputs_of(workspace, phase, length_penalty=0.5)
        assert (changed_inputs(inputs_of(workspace, phase), other) != []) == counts, phase


def test_other_adapters_of_the_teacher_at_the_same_path_are_told(workspace, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(workspace / "teacher", adapter)
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    before = inputs_of(workspace, ref_model_adapters=str(adapter))
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    (told,) = changed_inputs(before, inputs_of(workspace, ref_model_adapters=str(adapter)))
    assert told.startswith("teacher_adapters was [{")


def test_teacher_trained_again_in_its_folder_is_told(workspace, tmp_path):
    """Names, sizes and configuration are the same then; only what the weights are has changed."""
    teacher = tmp_path / "teacher"
    shutil.copytree(workspace / "teacher", teacher)
    before = inputs_of(workspace, ref_model=str(teacher))
    assert changed_inputs(before, inputs_of(workspace, ref_model=str(teacher))) == []
    weights = teacher / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (told,) = changed_inputs(before, inputs_of(workspace, ref_model=str(teacher)))
    assert told.startswith("teacher was {")


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
