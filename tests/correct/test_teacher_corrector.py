# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The teacher as corrector: a tiny one in a real run, and one whose replies are scripted."""

import json
from contextlib import contextmanager

import pytest
import torch
from small_run import recipe

from llamafactory_clinkd.correct import correct_round, load_similarity, teacher_corrector
from llamafactory_clinkd.correct.teacher_corrector import LoadedTeacher, TeacherCorrector, without_special_tokens
from llamafactory_clinkd.utils.boxes import strip_boxes
from llamafactory_clinkd.utils.io import read_json, read_jsonl


ROW = {"id": "a", "image": "a.png", "question": "What does the image show?", "response": "a <|image_pad|><image>"}
TRUTH = "The image shows a mass in the left lung."


class Tokenizer:
    """Words are tokens."""

    def encode(self, text, add_special_tokens=True):
        return text.split()

    def pad(self, encoded, padding_side, return_tensors):
        assert padding_side == "left"
        return encoded


def scripted(monkeypatch, replies, tokens=5):
    """A corrector whose teacher replies as scripted, the prompts that it gets, and when it is loaded and freed."""
    prompts, events, left = [], [], iter(replies)

    def decode_batch(model, tokenizer, inputs, settings):
        return [{"candidates": [{"text": next(left)}], "tokens": tokens} for _ in inputs["input_ids"]]

    monkeypatch.setattr(teacher_corrector, "decode_batch", decode_batch)
    monkeypatch.setattr(teacher_corrector, "generation_settings", lambda *arguments: {})
    monkeypatch.setattr(teacher_corrector, "model_inputs", lambda model, batch, device: batch)

    def encode(prompt):
        prompts.append(prompt)
        return prompt.split()

    @contextmanager
    def load():
        events.append("loaded")
        try:
            yield LoadedTeacher(torch.nn.Linear(1, 1), Tokenizer(), encode)
        finally:
            events.append("freed")

    return TeacherCorrector("scripted", load, candidates=3, batch_size=2), prompts, events


def correct(corrector, tmp_path, *truths):
    rows = [{**ROW, "id": str(number), "annotation": truth} for number, truth in enumerate(truths)]
    path = tmp_path / "round-1.jsonl"
    summary = correct_round(
        rows, similarity=load_similarity("lexical"), corrector=corrector, out_path=path, threshold=0.5
    )
    return summary, read_jsonl(path)


def test_good_rewordings_are_accepted_and_changed_meanings_rejected(monkeypatch, tmp_path):
    good, wrong = "A mass in the left lung can be seen in the image.", "The image shows a mass in the right lung."
    replies = [
        f"<think>Left.</think>{json.dumps({'candidates': [wrong, good]})}", json.dumps({"candidates": [wrong]}),
        "I am sorry, I cannot help with that.",
    ]  # fmt: skip
    corrector, prompts, events = scripted(monkeypatch, replies)
    summary, records = correct(corrector, tmp_path, TRUTH, TRUTH, TRUTH)
    assert [(row["status"], row["corrected"], row["error"]) for row in records] == [
        ("corrected", good, None), ("rejected", None, None), ("rejected", None, "refusal"),
    ]  # fmt: skip
    assert {"opposite", "position"} & set(records[1]["candidates"][0]["reasons"])
    assert (summary.corrected, summary.rejected, summary.usage["requests"]) == (1, 2, 3)
    assert summary.usage["completion_tokens"] == 15 and summary.usage["prompt_tokens"] == sum(
        len(prompt.split()) for prompt in prompts
    )
    assert events == ["loaded", "freed"]
    assert all(TRUTH in prompt and "<|image_pad|>" not in prompt and "<image>" not in prompt for prompt in prompts)


def test_a_reply_that_was_cut_off_is_an_error(monkeypatch, tmp_path):
    corrector, _, _ = scripted(monkeypatch, ['{"candidates": ["A mass in the left lung is shown."]}'], tokens=10_000)
    assert [row["error"] for row in correct(corrector, tmp_path, TRUTH)[1]] == ["length"]


def test_the_teacher_is_freed_when_a_run_stops_and_not_loaded_without_need(monkeypatch, tmp_path):
    corrector, _, events = scripted(monkeypatch, ["{}"] * 4)
    assert correct(corrector, tmp_path, strip_boxes(ROW["response"]))[0].kept == 1 and events == []

    def stop(stage, done, total):
        if done:
            raise KeyboardInterrupt

    rows = [{**ROW, "id": str(number), "annotation": TRUTH} for number in range(4)]
    with pytest.raises(KeyboardInterrupt):
        correct_round(
            rows, similarity=load_similarity("lexical"), corrector=corrector, out_path=tmp_path / "two.jsonl",
            progress=lambda stage, done, total: stop(stage, done if stage == "correct" else 0, total),
        )  # fmt: skip
    assert events == ["loaded", "freed"]


def test_special_tokens_are_taken_out_of_the_prompt():
    text = "<|im_<|im_end|>end|>a <|object_ref_start|>b<|object_ref_end|> <image>"
    assert without_special_tokens(text) == "a <|object_ref_start|>b<|object_ref_end|> "


def test_without_a_teacher_or_with_a_bad_prompt_nothing_starts(workspace, tmp_path):
    from llamafactory.hparams import get_train_args
    from llamafactory.train.tuner import run_exp

    keys = recipe(workspace, tmp_path / "out", clinkd_phases="correct", corrector="teacher")
    with pytest.raises(ValueError, match="`corrector: teacher` needs a teacher. Set `ref_model`"):
        get_train_args({key: value for key, value in keys.items() if key != "ref_model"})
    with pytest.raises(FileNotFoundError, match="correction_prompt"):
        run_exp({**keys, "correction_prompt": str(tmp_path / "none.txt")})
    assert not (tmp_path / "out" / "clinkd" / "corrections").exists()


def test_a_tiny_teacher_in_a_real_run(workspace, tmp_path, connections, monkeypatch):
    """Its replies are nonsense: every row ends with a verdict and a reason, and training goes on."""
    from llamafactory.train.tuner import run_exp

    monkeypatch.setattr("datasets.config.HF_UPDATE_DOWNLOAD_COUNTS", False)  # see README, Limits
    run_exp(recipe(workspace, tmp_path, clinkd_phases="correct", corrector="teacher"))
    folder = tmp_path / "clinkd" / "corrections"
    summary, records = read_json(folder / "round-1.summary.json"), read_jsonl(folder / "round-1.jsonl")
    assert len(records) == summary["rows"] == 8 and summary["rejected"] > 0
    assert summary["usage"]["requests"] == summary["corrected"] + summary["rejected"]
    assert summary["usage"]["completion_tokens"] > 0
    for row in records:
        reasons = [reason for candidate in row["candidates"] for reason in candidate["reasons"]]
        assert row["reason"] and (row["status"] == "kept" or row["error"] or reasons)
    assert read_json(tmp_path / "trainer_state.json")["epoch"] == 2.0
    assert connections == []
