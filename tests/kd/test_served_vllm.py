# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A real vLLM server as the teacher: all ids give the live teacher's losses."""

import pytest
from kd_runs import distil, history
from vllm_server import vllm_python, vllm_server


pytest.importorskip("openai", reason="the openai client is not installed")


@pytest.mark.long
@pytest.mark.parametrize("on_policy", [0, 1])
def test_losses_are_the_live_teacher_s(small_workspace, tmp_path, one_thread, on_policy):
    import json

    vllm_python()
    keys = {"kd_temperature": 1, "rope_variant": "mrope", "kd_on_policy": on_policy, "max_new_tokens": 6}
    live = distil(small_workspace, tmp_path / "live", **keys)
    config = json.loads((small_workspace / "teacher" / "config.json").read_text())
    vocabulary = config.get("text_config", config)["vocab_size"]
    (tmp_path / "server").mkdir()
    options = ("--enable-scale-out", "--max-logprobs", str(vocabulary))
    with vllm_server(small_workspace / "teacher", tmp_path / "server", *options) as url:
        keys |= {"ref_model": None, "kd_teacher_base_url": url, "kd_teacher_top_k": vocabulary}
        served = distil(small_workspace, tmp_path / "served", **keys)
    parts = ("loss", "ce", "kl", "kl_on_policy")
    for ours, theirs in zip(history(served, parts), history(live, parts), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
