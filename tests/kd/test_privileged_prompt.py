# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

from types import SimpleNamespace

import pytest
import torch
from kd_runs import distil, history
from small_run import recipe
from torch import nn

from llamafactory_clinkd.kd.privileged_prompt import PrivilegedPrompt, answer_starts


OPEN, CLOSE, IMAGE, PAD = [90, 91], [92, 93], 7, 0


class Template:
    """A prompt is 80, the word's letters, 90, 91; an answer its letters, 92, 93."""

    def encode_oneturn(self, tokenizer, messages):
        question, answer = (tokenizer.encode(message["content"]) for message in messages)
        return [80, *question, *OPEN], [*answer, *CLOSE]


class Letters:
    def encode(self, text, add_special_tokens=False):
        return [1 if letter == "\n" else ord(letter) % 50 + 10 for letter in text]


class Model(nn.Module):
    config = SimpleNamespace(image_token_id=IMAGE)

    def forward(self, input_ids, mm_token_type_ids=None):
        raise NotImplementedError


def prompt(text="H {answer}!"):
    return PrivilegedPrompt(text, Template(), Letters(), PAD)


def test_the_hint_has_the_reference_without_its_closing_tokens():
    h, space, mark = Letters().encode("H"), Letters().encode(" "), Letters().encode("!")
    assert prompt().hint([3, 4, *CLOSE]) == [1, *h, *space, 3, 4, *mark]
    assert prompt().hint([3, 4]) == [1, *h, *space, 3, 4, *mark]
    assert prompt("{answer}").hint([]) == [1]


def test_the_teachers_batch_has_hints_before_the_opening_and_one_shift():
    ids = torch.tensor([[80, IMAGE, *OPEN, 5, 6, 0], [80, *OPEN, 5, 0, 0, 0]])
    mask = (ids != 0).long()
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": torch.zeros(3, 2, 7), "pixel_values": "x"}
    new, shift = prompt("{answer}").teacher_batch(batch, [4, 3], [[8, 9, *CLOSE], [8, *CLOSE]], Model())
    assert shift == 3
    assert new["input_ids"].tolist() == [
        [80, IMAGE, 1, 8, 9, *OPEN, 5, 6, 0],
        [80, 1, 8, PAD, *OPEN, 5, 0, 0, 0],
    ]
    assert new["attention_mask"].tolist() == [[1] * 9 + [0], [1, 1, 1, 0, 1, 1, 1, 0, 0, 0]]
    assert new["mm_token_type_ids"].tolist()[0] == [0, 1] + [0] * 8
    assert new["pixel_values"] == "x" and "position_ids" not in new


def test_a_row_without_an_answer_is_only_shifted():
    ids = torch.tensor([[80, *OPEN, 5], [80, 3, 3, 0]])
    new, shift = prompt("{answer}").teacher_batch(
        {"input_ids": ids, "attention_mask": (ids != 0).long()}, [3, -1], [[8], []], Model()
    )
    assert shift == 2
    assert new["input_ids"].tolist() == [[80, 1, 8, *OPEN, 5], [0, 0, 80, 3, 3, 0]]
    assert new["attention_mask"].tolist() == [[1] * 6, [0, 0, 1, 1, 1, 0]]


def test_answers_start_after_the_first_position_that_predicts_one():
    targets = torch.tensor([[-100, 5, 6], [4, 5, -100], [-100, -100, -100]])
    assert answer_starts(torch.tensor([2, 3, 4]), targets, -100) == [4, 3, -1]


def test_a_prompt_that_was_cut_is_refused():
    ids = torch.tensor([[80, 3, 5, 6]])
    with pytest.raises(ValueError, match="does not end with the template's opening.*Raise `cutoff_len`"):
        prompt().teacher_batch({"input_ids": ids, "attention_mask": torch.ones(1, 4)}, [2], [[8]], Model())
    with pytest.raises(ValueError, match=r"has no \{answer\}"):
        prompt("think")


@torch.no_grad()
def test_masked_tokens_inside_a_row_do_not_change_what_follows(small_workspace):
    """Hints of one batch are filled to one length, under MCG-RoPE too."""
    from transformers import AutoModelForImageTextToText

    from llamafactory_clinkd.rope import apply_rope

    model = AutoModelForImageTextToText.from_pretrained(small_workspace / "student").eval()
    for variant in ("mrope", "mcg"):
        apply_rope(model, variant)
        image = model.config.image_token_id
        grid = torch.tensor([[1, 4, 4]])
        pixels = torch.randn(16, 1176, generator=torch.Generator().manual_seed(0))
        start = [5, model.config.vision_start_token_id, *[image] * 4, model.config.vision_end_token_id]
        plain, filled = [*start, 9, 8, 7], [*start, 3, 3, 3, 9, 8, 7]
        logits = []
        for ids in (plain, filled):
            ids = torch.tensor([ids])
            mask = torch.ones_like(ids)
            mask[:, 7 : ids.shape[1] - 3] = 0
            types = (ids == image).long()
            inputs = {
                "attention_mask": mask,
                "mm_token_type_ids": types,
                "pixel_values": pixels,
                "image_grid_thw": grid,
            }
            logits.append(model(input_ids=ids, **inputs).logits[:, -3:])
        torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_self_distillation_with_the_ground_truth_in_the_teachers_prompt(small_workspace, tmp_path):
    """The student's base is the teacher; with an adapter of zeros only the hint makes a difference."""
    keys = {
        "finetuning_type": "lora", "lora_target": "q_proj,v_proj", "kd_on_policy": 1.0, "learning_rate": 1e-30,
        "rope_variant": "mrope", "ref_model": str(small_workspace / "student"), "kd_epochs": 1,
    }  # fmt: skip
    parts = ("kl_on_policy",)
    plain = history(distil(small_workspace, tmp_path / "plain", **keys), parts)
    hinted = distil(small_workspace, tmp_path / "hint", **keys, kd_teacher_prompt="A correct answer is: {answer}")
    assert all(abs(entry["kl_on_policy"]) < 1e-6 for entry in plain)
    assert all(entry["kl_on_policy"] > 1e-5 for entry in history(hinted, parts))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kd_on_policy": 0.5, "kd_teacher_prompt": "{answer}"}, "kd_on_policy: 0.5"),
        ({"kd_on_policy": 1.0, "kd_teacher_prompt": "think"}, "kd_teacher_prompt: think"),
    ],
)
def test_keys_that_do_not_go_together(small_workspace, tmp_path, changes, message):
    from llamafactory.hparams import get_train_args

    with pytest.raises(ValueError, match=message):
        get_train_args(recipe(small_workspace, tmp_path / "out", **changes))
