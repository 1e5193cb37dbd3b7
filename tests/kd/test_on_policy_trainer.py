# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""On-policy distillation through stock's own entry point."""

import pytest
from kd_runs import StopAt, distil, history, same_bits, weights


ROLLOUT = ("rollout_length", "rollout_ended", "rollout_cut", "rollout_empty", "rollout_seconds")
PARTS = ("loss", "kl_on_policy", "kl_off_policy", "ce", "on_policy_share", *ROLLOUT)
KEYS = {"kd_on_policy": 0.5, "kd_rollout_every": 3, "per_device_train_batch_size": 1, "pseudo_label_samples": 8}


def test_both_kinds_are_logged_apart_and_add_up(small_workspace, tmp_path):
    out = distil(small_workspace, tmp_path / "mixed", kd_alpha=0.7, kd_divergence="jsd", kd_beta=0.3, **KEYS)
    entries = history(out, PARTS)
    shares = [entry["on_policy_share"] for entry in entries]
    assert min(shares) == 0.0 or max(shares) == 1.0 or len(set(shares)) > 1
    assert any(share > 0 for share in shares) and any(share < 1 for share in shares)
    for entry in entries:
        expected = (entry["ce"] + 0.7 * entry["kl_off_policy"]) / 1.7 + entry["kl_on_policy"]
        assert entry["loss"] == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert (entry["kl_on_policy"] > 0) == (entry["on_policy_share"] > 0)
    rounds = [entry for entry in entries if "rollout_length" in entry]
    assert 0 < len(rounds) <= -(-len(entries) // 3) + 1
    assert all(0 <= entry["rollout_length"] <= 6 and entry["rollout_seconds"] > 0 for entry in rounds)


def test_killed_inside_a_round_and_continued_equals_one_that_was_not(small_workspace, tmp_path):
    keys = KEYS | {"save_strategy": "steps", "save_steps": 2, "lora_dropout": 0.0}
    whole = distil(small_workspace, tmp_path / "whole", **keys)
    with pytest.raises(StopAt.Stopped):
        distil(small_workspace, tmp_path / "killed", [StopAt(3)], **keys)
    assert list((tmp_path / "killed").glob("checkpoint-2/rollouts-0.json"))
    continued = distil(small_workspace, tmp_path / "killed", **keys)
    assert same_bits(weights(whole), weights(continued))
    assert [e["loss"] for e in history(whole)][2:] == [e["loss"] for e in history(continued)][2:]
