# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phases whose answers a server generates, in real recipes: no weights for pseudo-labels, and the right model else."""

import base64
import io
import logging

import pytest
import torch
from generation.answer_server import AnswerServer
from PIL import Image
from small_run import recipe
from tiny_models import CHAT_TEMPLATE

from llamafactory_clinkd.phases.served import served_model
from llamafactory_clinkd.rope import apply_rope
from llamafactory_clinkd.utils.endpoint import RemoteNotAllowedError
from llamafactory_clinkd.utils.io import read_jsonl


pytest.importorskip("openai", reason="the openai client is not installed")


def settings(**keys):
    from llamafactory_clinkd.arguments import ClinkdArguments

    made = ClinkdArguments(use_clinkd=True, clinkd_phases="predict", **keys)
    made.check_clinkd()
    return made


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"generation_phases": "predict"}, r"`generation_phases: \['predict'\]`.*without `generation_base_url`"),
        ({"generation_allow_remote": True}, "without `generation_base_url`"),
        ({"generation_base_url": "http://127.0.0.1:1/v1", "generation_phases": "distill"}, "subset of pseudo_label"),
        ({"generation_base_url": "http://127.0.0.1:1/v1", "generation_concurrency": 0}, "generation_concurrency"),
        (
            {"generation_base_url": "http://x/v1", "generation_phases": "correct", "correction_outputs": "forward"},
            "correction_outputs: forward",
        ),
    ],
)
def test_keys_that_do_not_go_together(keys, message):
    with pytest.raises(ValueError, match=message):
        settings(**keys)


def test_pictures_leave_the_machine_only_by_a_key_of_their_own(monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-" + "secret0" * 6)
    remote = {"generation_base_url": "https://llm.example.org/v1", "generation_phases": "predict"}
    assert served_model(settings(**remote), "pseudo_label") is None
    with pytest.raises(RemoteNotAllowedError, match="PICTURES of every row.*generation_allow_remote: true"):
        served_model(settings(**remote, correction_allow_remote=True, corrector="openai"), "predict")
    with caplog.at_level(logging.WARNING, "llamafactory_clinkd"):
        assert (
            served_model(settings(**remote, generation_allow_remote=True), "predict").url
            == remote["generation_base_url"]
        )
    assert "PICTURES of every row LEAVE THIS MACHINE for llm.example.org" in caplog.text
    plain = remote | {"generation_base_url": "http://llm.example.org/v1", "generation_allow_remote": True}
    with pytest.raises(RemoteNotAllowedError, match="generation_allow_http: true"):
        served_model(settings(**plain), "predict")
    with pytest.raises(ValueError, match="generation_base_url is 'ftp:"):
        served_model(settings(generation_base_url="ftp://x", generation_phases="predict"), "predict")


def test_the_doctor_names_pictures(monkeypatch):
    from llamafactory_clinkd.doctor import sending

    keys = {"use_clinkd": True, "clinkd_phases": "pseudo_label", "generation_base_url": "https://llm.example.org/v1"}
    assert sending(keys).state == "broken" and "generation_allow_remote" in sending(keys).fix
    found = sending(keys | {"generation_allow_remote": True}).found
    assert (
        found
        == "answers of pseudo_label: the question and the PICTURES of every row LEAVE THIS MACHINE for llm.example.org"
    )
    local = keys | {"generation_base_url": "http://127.0.0.1:8000/v1", "clinkd_phases": "pseudo_label,correct"}
    assert "offline corrector: nothing is sent anywhere" not in sending(local).found
    assert "PICTURES of every row go to 127.0.0.1, on this machine" in sending(local).found
    assert "PICTURES" not in sending(local | {"clinkd_phases": "correct"}).found


TEACHER = {"kd_teacher_base_url": "http://127.0.0.1:1/v1", "kd_temperature": 1}


def distil_settings(**keys):
    from llamafactory_clinkd.arguments import ClinkdArguments

    ref_model = keys.pop("ref_model", None)
    made = ClinkdArguments(use_clinkd=True, **{"clinkd_phases": "distill"} | keys)
    made.ref_model = ref_model
    made.check_clinkd()
    return made


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kd_temperature": 0.5}, "kd_temperature: 0.5.*Expected 1 with `kd_teacher_base_url`"),
        ({"kd_noise_std": 0.1}, "kd_noise_std: 0.1"),
        ({"kd_method": "vkd"}, "kd_method: vkd.*no hidden states"),
        ({"kd_cache": "hidden"}, "kd_cache: hidden"),
        ({"kd_teacher_offload": True}, "kd_teacher_offload: True"),
        ({"kd_teacher_prompt": "{answer}", "kd_on_policy": 1}, "kd_teacher_prompt"),
        ({"kd_teacher_top_k": 0}, "kd_teacher_top_k"),
        ({"clinkd_phases": "predict"}, "without the phase distill"),
        ({"kd_teacher_base_url": None, "kd_teacher_top_k": 30}, "without `kd_teacher_base_url`"),
        ({"kd_teacher_base_url": None, "kd_teacher_allow_http": True}, "without `kd_teacher_base_url`"),
    ],
)
def test_a_served_teacher_takes_no_keys_of_a_loaded_one(keys, message):
    with pytest.raises(ValueError, match=message):
        distil_settings(**TEACHER | keys | ({} if "kd_teacher_base_url" not in keys else {"ref_model": "x"}))


def test_there_is_one_teacher_for_each_phase():
    distil_settings(**TEACHER)
    with pytest.raises(ValueError, match="ref_model: x.*which is the teacher"):
        distil_settings(**TEACHER, ref_model="x")
    distil_settings(**TEACHER, ref_model="x", clinkd_phases="pseudo_label,distill")
    distil_settings(**TEACHER, clinkd_phases="pseudo_label,distill", generation_base_url="http://127.0.0.1:1/v1")


def test_a_served_teacher_leaves_the_machine_only_by_its_own_key(monkeypatch, caplog):
    from llamafactory_clinkd.phases.served import describe_served, served_teacher

    monkeypatch.setenv("OPENAI_API_KEY", "sk-" + "secret0" * 6)
    remote = TEACHER | {"kd_teacher_base_url": "https://llm.example.org/v1"}
    with pytest.raises(RemoteNotAllowedError, match="answer and the PICTURES of.*kd_teacher_allow_remote: true"):
        served_teacher(distil_settings(**remote))
    with caplog.at_level(logging.WARNING, "llamafactory_clinkd"):
        assert (
            served_teacher(distil_settings(**remote, kd_teacher_allow_remote=True)).url
            == remote["kd_teacher_base_url"]
        )
    assert "PICTURES of every row LEAVE THIS MACHINE for llm.example.org" in caplog.text
    assert served_teacher(settings()) is None
    keys = {"use_clinkd": True, "kd_teacher_allow_remote": True, **remote}
    assert "teacher of distill: the question, the answer and the PICTURES" in describe_served(keys)
    assert describe_served(keys | {"clinkd_phases": "predict"}) == ""


@pytest.mark.slow
def test_pseudo_labels_come_from_a_server_without_the_teacher_s_weights(workspace, tmp_path, monkeypatch):
    from llamafactory.train.sft import workflow
    from llamafactory.train.tuner import run_exp

    def load_model(*args, **kwargs):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(workflow, "load_model", load_model)
    with AnswerServer() as server:
        server.prompt = prompt_ids(workspace / "student")
        keys = {"clinkd_phases": "pseudo_label", "ref_model": None, "generation_base_url": server.url}
        run_exp(recipe(workspace, tmp_path, use_cpu=True, **keys))
    labels = read_jsonl(tmp_path / "clinkd" / "pseudo_labels.jsonl")
    assert len(labels) == 4 and sorted(row["question"] for row in labels) == sorted(server.asked())
    for body in server.bodies:
        assert body["messages"][0] == {"role": "system", "content": "You are a helpful assistant."}
        assert picture_of(body).size == (84, 84)  # 112 x 84, square on the grid of 28
        assert body["max_tokens"] == 1 or (body["n"], body["use_beam_search"]) == (3, True)
    assert "answer 0 to " in str(labels[0])


@pytest.mark.slow
@pytest.mark.parametrize("ref_model", [True, False])
def test_pseudo_labels_are_refused_under_another_chat_template(workspace, tmp_path, ref_model):
    """vLLM under a text-only chat template puts a line break between picture and question."""
    from llamafactory.train.tuner import run_exp
    from transformers import AutoTokenizer

    line_break = CHAT_TEMPLATE.replace("<|vision_end|>", "<|vision_end|>\n")
    with AnswerServer() as server:
        server.prompt, right = prompt_ids(workspace / "student", line_break), prompt_ids(workspace / "student")
        server.decode = AutoTokenizer.from_pretrained(workspace / "student").decode
        keys = {"clinkd_phases": "pseudo_label", "generation_base_url": server.url, "use_cpu": True}
        keys |= {} if ref_model else {"ref_model": None}
        with pytest.raises(RuntimeError, match="reads a prompt otherwise.*'<.vision_end.>' follows '.*clinkd serve"):
            run_exp(recipe(workspace, tmp_path, **keys))
        assert server.asked() == []
        if ref_model:  # the same command continues
            server.prompt = right
            run_exp(recipe(workspace, tmp_path, **keys))
            assert len(server.asked()) == 4


@pytest.mark.slow
def test_predictions_need_the_trained_model_at_the_server(workspace, tmp_path):
    from llamafactory.train.tuner import run_exp

    folder = workspace / "teacher"  # the student's single layer hardly depends on positions
    model, first = transformers_answers(folder, folder)
    keys = {"clinkd_phases": "predict", "ref_model": None, "do_train": False, "dataset": None, "use_cpu": True}
    keys |= {"rope_variant": "mcg", "generation_phases": "predict", "model_name_or_path": str(folder)}
    with AnswerServer() as server:
        server.first, server.prompt = first, prompt_ids(folder)
        keys["generation_base_url"] = server.url
        with pytest.raises(RuntimeError, match="does not serve the model of this phase"):
            run_exp(recipe(workspace, tmp_path, **keys))  # stock positions at the server
        assert server.asked() == []
        apply_rope(model, "mcg")
        run_exp(recipe(workspace, tmp_path, **keys))
    rows = read_jsonl(tmp_path / "clinkd" / "predictions.jsonl")
    assert len(rows) == 4 and all(len(row["candidates"]) == 3 for row in rows)
    assert all(row["response"].startswith("answer ") for row in rows)


@pytest.mark.slow
def test_corrections_wait_for_the_checkpoint_of_their_round(workspace, tmp_path, caplog):
    from llamafactory.train.tuner import run_exp

    folder = workspace / "teacher"
    keys = {"clinkd_phases": "correct", "ref_model": None, "model_name_or_path": str(folder), "use_cpu": True}
    keys |= {"rope_variant": "mrope", "generation_phases": "correct", "correction_rounds": 2, "save_total_limit": 3}
    with AnswerServer() as server:
        keys["generation_base_url"] = server.url
        _, server.first = transformers_answers(folder, folder)
        server.prompt = prompt_ids(folder)
        with pytest.raises(RuntimeError, match="does not serve the model of this phase"):
            run_exp(recipe(workspace, tmp_path, **keys))  # the server still has the untrained model
        assert server.asked() == []
        [checkpoint] = tmp_path.glob("checkpoint-*")
        assert f"must serve the model after round 1: {checkpoint.name} in {tmp_path}" in caplog.text
        _, server.first = transformers_answers(checkpoint, folder)
        run_exp(recipe(workspace, tmp_path, **keys))
        assert len(server.asked()) == 8
    answers = read_jsonl(tmp_path / "clinkd" / "corrections" / "round-1.outputs.jsonl")
    assert len(answers) == 8 and all(row["candidates"][0]["text"].startswith("answer 0 to ") for row in answers)
    assert (tmp_path / "clinkd" / "corrections" / "round-1.summary.json").is_file()


def transformers_answers(folder, processor_folder):
    """A model, and what it computes from the messages of a request alone."""
    from transformers import Qwen2VLForConditionalGeneration

    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    inputs_of = prompt_inputs(processor_folder)

    def first(body):
        with torch.no_grad():
            values, ids = model(**inputs_of(body)).logits[0, -1].log_softmax(-1).topk(5)
        return {f"token_id:{token}": value for token, value in zip(ids.tolist(), values.tolist(), strict=True)}

    return model, first


def prompt_inputs(folder, chat_template=CHAT_TEMPLATE):
    """What a server with the processor of a folder makes of a request, as a function."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)

    def inputs_of(body):
        messages = [body["messages"][0], {"role": "user", "content": []}]
        for part in body["messages"][1]["content"]:
            messages[1]["content"].append({"type": "image"} if part["type"] == "image_url" else part)
        text = processor.apply_chat_template(messages, chat_template=chat_template, add_generation_prompt=True)
        return processor(text=[text], images=[picture_of(body)], return_tensors="pt")

    return inputs_of


def prompt_ids(folder, chat_template=CHAT_TEMPLATE):
    inputs_of = prompt_inputs(folder, chat_template)
    return lambda body: inputs_of(body)["input_ids"][0].tolist()


def picture_of(body):
    url = next(part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url")
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
