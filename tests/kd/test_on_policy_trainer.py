# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""On-policy distillation through stock's own entry point."""

import shutil

import pytest
import torch
from kd_runs import StopAt, direct_losses, distil, history, same_bits, teacher_adapter, weights

from llamafactory_clinkd.kd.rollouts import prompts_of
from llamafactory_clinkd.rope import apply_rope
from llamafactory_clinkd.utils.io import read_json, write_json


ROLLOUT = (
    "rollout_length", "rollout_ended", "rollout_cut", "rollout_truncated", "rollout_empty", "rollout_seconds"
)  # fmt: skip
PARTS = ("loss", "kl_on_policy", "kl_off_policy", "ce", "on_policy_share", *ROLLOUT)
KEYS = {"kd_on_policy": 0.5, "kd_rollout_every": 3, "per_device_train_batch_size": 1, "pseudo_label_samples": 8}


def test_both_kinds_are_logged_apart_and_add_up(small_workspace, tmp_path):
    out = distil(small_workspace, tmp_path / "mixed", kd_alpha=0.7, kd_divergence="jsd", kd_beta=0.3, **KEYS)
    entries = history(out, PARTS)
    shares = [entry["on_policy_share"] for entry in entries]
    assert any(share > 0 for share in shares) and any(share < 1 for share in shares)
    for entry in entries:
        expected = (entry["ce"] + 0.7 * entry["kl_off_policy"]) / 1.7 + entry["kl_on_policy"]
        assert entry["loss"] == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert (entry["kl_on_policy"] > 0) == (entry["on_policy_share"] > 0)
        assert (entry["ce"] > 0) == (entry["on_policy_share"] < 1)
    sampled = [entry for entry in entries if "rollout_length" in entry]
    assert 0 < len(sampled) <= -(-len(entries) // 3) + 1
    assert all(0 <= entry["rollout_length"] <= 6 and entry["rollout_seconds"] > 0 for entry in sampled)


@torch.no_grad()
def test_loss_is_the_divergence_on_the_sampled_tokens(small_workspace, tmp_path, rounds):
    """Against both models in fp64, a row at a time, from the prompts and answers of the run."""
    from transformers import AutoModelForImageTextToText

    keys = KEYS | {"kd_on_policy": 1.0, "kd_temperature": 2.0, "kd_divergence": "jsd", "kd_beta": 0.3}
    with torch.enable_grad():
        out = distil(small_workspace, tmp_path / "out", learning_rate=1e-30, kd_epochs=1, **keys)

    def load(name):
        return AutoModelForImageTextToText.from_pretrained(small_workspace / name, dtype=torch.float64).eval()

    student, teacher = apply_rope(load("student"), "mcg"), load("teacher")
    losses = direct_losses(rounds, student, teacher)
    assert [entry["loss"] for entry in history(out)] == pytest.approx(losses, rel=1e-4)
    # Sums of fp32 logarithms.
    assert [entry["kl_on_policy"] for entry in history(out, PARTS)] == pytest.approx(losses, rel=2e-4)


def test_killed_inside_a_round_and_continued_equals_one_that_was_not(small_workspace, tmp_path, rounds):
    keys = KEYS | {"save_strategy": "steps", "save_steps": 2}
    whole = distil(small_workspace, tmp_path / "whole", **keys)
    answers = [result.answers for _, result in rounds]
    assert len({str(each) for each in answers}) > 1
    rounds.clear()
    with pytest.raises(StopAt.Stopped):
        distil(small_workspace, tmp_path / "killed", [StopAt(3)], **keys)
    assert (tmp_path / "killed" / "checkpoint-2" / "rollouts-0.json").is_file()
    continued = distil(small_workspace, tmp_path / "killed", **keys)
    assert same_bits(weights(whole), weights(continued))
    assert history(whole, PARTS[:5])[2:] == history(continued, PARTS[:5])[2:]


def test_a_teacher_over_the_students_base(small_workspace, tmp_path, rounds):
    keys = teacher_adapter(small_workspace, tmp_path / "adapter")
    out = distil(small_workspace, tmp_path / "out", **keys, **KEYS | {"kd_on_policy": 1.0})
    assert all(entry["kl_on_policy"] > 0 for entry in history(out, PARTS))
    assert all(result.answers for _, result in rounds)


def test_rollouts_follow_the_recipes_temperature_and_length(small_workspace, tmp_path, rounds):
    keys = {"kd_on_policy": 1.0, "kd_epochs": 1, "learning_rate": 1e-30, "max_new_tokens": 3}
    found = []
    for name, more in (("a", {}), ("b", {}), ("seed", {"seed": 7}), ("greedy", {"kd_rollout_temperature": 0.0})):
        rounds.clear()
        distil(small_workspace, tmp_path / name, disable_shuffling=True, pseudo_label_samples=4, **keys, **more)
        found.append([answer for _, result in rounds for answer in result.answers])
        assert max(map(len, found[-1])) <= 3
    assert found[0] == found[1] and found[0] != found[2] and found[0] != found[3]


def test_answers_end_at_the_recipes_length(small_workspace, tmp_path, rounds, caplog):
    """``max_new_tokens`` is larger than ``cutoff_len``, and that is larger than the models' positions."""
    models = {}
    for name, key in (("student", "model_name_or_path"), ("teacher", "ref_model")):
        copied = shutil.copytree(small_workspace / name, tmp_path / name)
        config = read_json(copied / "config.json")
        config["text_config"]["max_position_embeddings"] = 64 if name == "student" else 70
        write_json(copied / "config.json", config)
        models[key] = str(copied)
    keys = KEYS | models | {"max_new_tokens": 200, "per_device_train_batch_size": 2, "kd_on_policy": 1.0}
    out = distil(small_workspace, tmp_path / "out", cutoff_len=70, **keys)
    lengths = [
        len(prompt) + len(answer)
        for batches, result in rounds
        for prompt, answer in zip([p for batch in batches for p in prompts_of(batch)], result.answers, strict=True)
    ]
    assert max(lengths) == 70 > min(lengths)
    shares = [entry["rollout_truncated"] for entry in history(out, ROLLOUT) if entry]
    assert shares == [result.truncated / len(result.answers) for _, result in rounds] and max(shares) > 0
    assert caplog.text.count("`cutoff_len: 70` ends") == 1 and "before `max_new_tokens: 200`" in caplog.text
    assert "the student's `max_position_embeddings` of 64" in caplog.text and "the teacher's `max_p" not in caplog.text
