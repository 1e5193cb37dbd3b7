# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Pseudo-labels from a real vLLM: refused under the chat template that stock saves, right under ``clinkd serve``."""

import pytest
from small_run import recipe
from tiny_models import build_tiny_qwen2vl
from vllm_server import vllm_python, vllm_server

from llamafactory_clinkd.phases import pseudo_label
from llamafactory_clinkd.rope.serve_template import FILE, Training, training_template
from llamafactory_clinkd.utils.io import read_json, read_jsonl, write_json


pytest.importorskip("openai", reason="the openai client is not installed")


@pytest.mark.long
def test_clinkd_serve_gives_the_prompts_that_plain_vllm_does_not(workspace, tmp_path, monkeypatch):
    from llamafactory.train.tuner import run_exp
    from transformers import AutoTokenizer

    vllm_python()
    nothing = {"tasks": {}, "blind": {}, "rows": 0, "warnings": []}
    monkeypatch.setattr(pseudo_label, "teacher_scores", lambda labels, seed: nothing)  # METEOR takes 2 GB beside vLLM
    rows = [row for name in ("train", "test") for row in read_json(workspace / "data" / f"{name}.json")]
    texts = [message["content"] for row in rows for message in row["messages"]]
    teacher = build_tiny_qwen2vl(tmp_path / "teacher", hidden_size=128, texts=texts)  # vLLM wants heads of 32 numbers
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    assert tokenizer.chat_template is None
    training_template(Training("qwen2_vl"), tokenizer).fix_jinja_template(tokenizer)
    tokenizer.save_pretrained(teacher)  # as stock's export
    keys = {"clinkd_phases": "pseudo_label", "ref_model": str(teacher), "use_cpu": True}

    def labels(name, url=None):
        served = {} if url is None else {"generation_base_url": url}
        run_exp(recipe(workspace, tmp_path / name, **keys, **served))
        return read_jsonl(tmp_path / name / "clinkd" / "pseudo_labels.jsonl")

    (tmp_path / "plain").mkdir()
    with vllm_server(teacher, tmp_path / "plain") as url:
        with pytest.raises(RuntimeError, match="reads a prompt otherwise") as refused:
            labels("refused", url)
    print(f"\n{refused.value}")
    (teacher / "clinkd").mkdir()
    write_json(teacher / "clinkd" / "state.json", {"phases": {"distill": {"inputs": {"template": "qwen2_vl"}}}})
    (tmp_path / "right").mkdir()
    with vllm_server(teacher, tmp_path / "right", clinkd_serve=True) as url:
        found = labels("served", url)
    assert (teacher / FILE).is_file()
    assert [row["pseudo_label"] for row in found] == [row["pseudo_label"] for row in labels("local")]
