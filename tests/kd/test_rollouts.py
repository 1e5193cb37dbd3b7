# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llamafactory_clinkd.kd.rollouts import (
    MEDIA_TOKENS,
    check_on_policy,
    is_on_policy,
    prompts_of,
    sample,
    with_rollouts,
)


PAD, END, IMAGE = 0, 9, 7
SETTINGS = {"do_sample": False, "eos_token_id": [END], "pad_token_id": PAD, "max_new_tokens": 4}
IGNORE = -100


class Scripted(nn.Module):
    """Answers row ``b`` with ``answers[b]``, padded as ``generate`` pads."""

    def __init__(self, answers=()):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(image_token_id=IMAGE)
        self.answers, self.inputs = answers, None

    def forward(self, input_ids, mm_token_type_ids=None):
        raise NotImplementedError

    def generate(self, input_ids, **inputs):
        self.inputs = {"input_ids": input_ids, **inputs}
        width = max(map(len, self.answers))
        answers = [[*answer, *[PAD] * (width - len(answer))] for answer in self.answers]
        return torch.cat([input_ids, torch.tensor(answers)], dim=1)


def batch(rows, **more):
    """Rows of (prompt, answer), padded on the right with id 0."""
    width = max(len(p) + len(a) for p, a in rows)
    table = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, answer in rows:
        padding = width - len(prompt) - len(answer)
        table["input_ids"].append([*prompt, *answer, *[PAD] * padding])
        table["attention_mask"].append([1] * (width - padding) + [0] * padding)
        table["labels"].append([IGNORE] * len(prompt) + answer + [IGNORE] * padding)
    return {name: torch.tensor(value) for name, value in table.items()} | more


def test_a_prompt_ends_before_the_last_answer():
    rows = batch([([1, 2], [3, 9]), ([4], [5, 6, 9]), ([1], [])])
    assert prompts_of(rows) == [[1, 2], [4], []]
    conversation = {
        "input_ids": torch.tensor([[1, 2, 3, 9, 4, 5, 6, 9, 0]]),
        "attention_mask": torch.tensor([[1] * 8 + [0]]),
        "labels": torch.tensor([[IGNORE, IGNORE, 3, 9, IGNORE, IGNORE, 6, 9, IGNORE]]),
    }
    assert prompts_of(conversation) == [[1, 2, 3, 9, 4, 5]]


def test_every_outcome_of_an_answer():
    rows = [([1, 2], [3, 9]), ([1, 2, 3], [4, 9]), ([5], [9]), ([6], [9]), ([8], [])]
    model = Scripted([[3, 4, 9], [3, 4, 5, 6], [3, 7, 9], [7, 3, 9], [2, 2, 9]])
    result = sample(model, [batch(rows[:2]), batch(rows[2:])], settings=SETTINGS, seed=0)
    assert result.answers == [[3, 4, 9], [3, 4, 5, 6], [3], [], []]
    assert (result.ended, result.cut) == (1, 2)
    assert model.inputs["input_ids"].tolist() == [[0, 1, 2], [1, 2, 3], [0, 0, 5], [0, 0, 6], [0, 0, 8]]
    assert model.inputs["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]]


def test_a_prompt_that_was_cut_before_its_answers_opening_is_not_continued():
    """Rows of the recipe's length, one of them whole; a shorter row may end as it likes."""
    rows = [([1, 2, 8], [3, 9]), ([1, 2, 3], [4, 9]), ([5], [9])]
    for options, answers in (
        ({"opening": [2, 8], "cutoff_len": 5}, [[3, 9], [], [6, 9]]),
        ({}, [[3, 9]] * 2 + [[6, 9]]),
    ):
        model = Scripted([[3, 9], [3, 9], [6, 9]])
        result = sample(model, [batch(rows)], settings=SETTINGS, seed=0, **options)
        assert result.answers == answers and result.ended == sum(map(bool, answers))


@pytest.mark.parametrize(
    "name",
    [
        "image_token_id", "video_token_id", "audio_token_id", "vision_start_token_id", "vision_end_token_id",
        "image_start_token_id", "video_start_token_id", "audio_start_token_id",
    ],
)  # fmt: skip
def test_an_answer_ends_before_every_token_that_announces_media(name):
    """Qwen2.5-Omni counts the start tokens of a row's audio, GLM-4V its image's start and end."""
    model = Scripted([[3, 8, 9], [8, 3, 9]])
    model.config = SimpleNamespace(**{name: 8})
    result = sample(model, [batch([([1], [9]), ([2], [9])])], settings=SETTINGS, seed=0)
    assert result == ([[3], []], 0, 2, 0) and name in MEDIA_TOKENS


def test_rows_repeated_at_an_epochs_end_are_neither_sampled_nor_counted():
    """accelerate marks the last batch of every epoch whose rows do not fill it, also when no row is repeated."""
    media = {"pixel_values": torch.ones(2, 3), "image_grid_thw": torch.tensor([[1, 1, 1]] * 2)}
    rows = batch([([IMAGE, 1], [9]), ([IMAGE, 2], [9])], **media)
    for repeated, answers in ((0, [[3, 9], [4, 9]]), (1, [[3, 9], []]), (2, [[], []])):
        model = Scripted([[3, 9], [4, 9]])
        result = sample(model, [rows | {"clinkd_repeated": repeated}], settings=SETTINGS, seed=0)
        assert result == (answers, 2 - repeated, 0, 0)
        assert (model.inputs is None) == (repeated == 2)
        new = with_rollouts(rows | {"clinkd_repeated": repeated}, result.answers, Scripted(), PAD)
        assert new["clinkd_repeated"] == repeated


def test_prompt_and_answer_together_have_at_most_the_recipes_length():
    """Prompts of 2, 4 and 5 tokens, ``max_new_tokens`` 4; one answer ends by itself at the limit."""
    rows = [([1, 2], [9]), ([1, 2, 3, 4], [9]), ([1, 2, 3, 4, 5], [9]), ([1, 2, 3, 4], [9])]
    model = Scripted([[3, 3, 3, 3], [4, 4, 4, 9], [5, 5, 5, 5], [6, 9]])
    result = sample(model, [batch(rows)], settings=SETTINGS, seed=0, cutoff_len=6)
    assert result == ([[3, 3, 3, 3], [4, 4], [5], [6, 9]], 1, 0, 2)
    new = with_rollouts(batch(rows), result.answers, Scripted(), PAD)
    assert new["attention_mask"].sum(1).tolist() == [6, 6, 6, 6]

    model = Scripted([[4, 4, 4, 9], [5, 7, 9]])
    result = sample(model, [batch(rows[1:3])], settings=SETTINGS, seed=0, cutoff_len=6)
    assert result == ([[4, 4], [5]], 0, 0, 2) and model.inputs["max_new_tokens"] == 2


def test_media_of_all_batches_are_joined_in_the_order_of_their_rows():
    first = batch([([IMAGE, 1], [9])], pixel_values=torch.ones(2, 3), image_grid_thw=torch.tensor([[1, 2, 1]]))
    second = batch([([IMAGE, 2], [9])], pixel_values=torch.zeros(1, 3), image_grid_thw=torch.tensor([[1, 1, 1]]))
    model = Scripted([[3, 9], [3, 9]])
    sample(model, [first, second], settings=SETTINGS, seed=0)
    assert model.inputs["pixel_values"].tolist() == [[1.0] * 3, [1.0] * 3, [0.0] * 3]
    assert model.inputs["image_grid_thw"].tolist() == [[1, 2, 1], [1, 1, 1]]
    assert model.inputs["mm_token_type_ids"].tolist() == [[1, 0], [1, 0]]


def test_no_row_with_a_prompt_needs_no_model():
    model = Scripted()
    assert sample(model, [batch([([1], []), ([2], [])])], settings=SETTINGS, seed=0).answers == [[], []]
    assert model.inputs is None


def test_a_batch_with_rollouts():
    old = batch([([1, 2], [3, 9]), ([4], [9])], pixel_values=torch.ones(1, 3), position_ids=torch.zeros(3, 2, 4))
    new = with_rollouts(old, [[5, 6, 5, 6, 5, 6, 9], []], Scripted(), PAD)
    assert new["input_ids"].tolist() == [[1, 2, 5, 6, 5, 6, 5, 6, 9] + [0] * 7, [4] + [0] * 15]
    assert new["attention_mask"].tolist() == [[1] * 9 + [0] * 7, [1] + [0] * 15]
    assert new["labels"].tolist() == [[IGNORE] * 2 + [5, 6, 5, 6, 5, 6, 9] + [IGNORE] * 7, [IGNORE] * 16]
    assert new["pixel_values"] is old["pixel_values"]
    assert "position_ids" not in new and new["mm_token_type_ids"].shape == (2, 16)


def test_the_placeholder_image_of_a_batch_without_images_stays():
    """Stock appends it to the first row with a mask of 0, so that the vision tower takes part in every step."""
    old = batch([([1], [3, 9]), ([2], [9])], pixel_values=torch.ones(1, 3))
    old["input_ids"] = torch.tensor([[1, 3, 9, IMAGE, IMAGE, 0], [2, 9, 0, 0, 0, 0]])
    old["attention_mask"] = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]])
    old["labels"] = torch.tensor([[IGNORE, 3, 9, IGNORE, IGNORE, IGNORE], [IGNORE, 9] + [IGNORE] * 4])
    new = with_rollouts(old, [[4, 9], [5, 9]], Scripted(), PAD)
    assert new["input_ids"].tolist() == [[1, 4, 9, IMAGE, IMAGE, 0, 0, 0], [2, 5, 9, 0, 0, 0, 0, 0]]
    assert new["attention_mask"].tolist() == [[1, 1, 1] + [0] * 5, [1, 1, 1] + [0] * 5]
    model = Scripted([[4, 9], [5, 9]])
    sample(model, [old], settings=SETTINGS, seed=0)
    assert "pixel_values" not in model.inputs and IMAGE not in model.inputs["input_ids"]

    result = sample(model, [old], settings=SETTINGS, seed=0, synced_gpus=True)  # another rank may have images
    assert result.answers == [[4, 9], [5, 9]] and model.inputs["pixel_values"] is old["pixel_values"]
    assert model.inputs["input_ids"].tolist() == [[IMAGE, IMAGE, 1], [PAD, PAD, 2]]
    assert model.inputs["attention_mask"].tolist() == [[0, 0, 1], [0, 0, 1]]
    other = batch([([IMAGE, 1], [9])], pixel_values=torch.zeros(1, 3))
    model = Scripted([[4, 9], [5, 9], [6, 9]])
    sample(model, [old, other], settings=SETTINGS, seed=0, synced_gpus=True)
    assert torch.equal(model.inputs["pixel_values"], other["pixel_values"])


def test_batches_that_cannot_be_replaced_are_refused():
    rows = [([1, 2], [3, 9])]
    with pytest.raises(ValueError, match="cross_attention_mask depends on every token"):
        with_rollouts(batch(rows, cross_attention_mask=torch.ones(1, 4, 2)), [[3]], Scripted(), PAD)
    packed = batch(rows)
    packed["attention_mask"] = torch.tensor([[1, 1, 2, 2]])
    with pytest.raises(ValueError, match="packed rows"):
        sample(Scripted([[9]]), [packed], settings=SETTINGS, seed=0)
    with pytest.raises(ValueError, match="2 rollouts for a batch of 1 rows"):
        with_rollouts(batch(rows), [[3], [4]], Scripted(), PAD)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_sampled_batches_and_its_seed(share):
    drawn = [is_on_policy(share, 1, step, index) for step in range(500) for index in range(4)]
    assert sum(drawn) / len(drawn) == pytest.approx(share, abs=0.03)
    assert drawn == [is_on_policy(share, 1, step, index) for step in range(500) for index in range(4)]
    if 0 < share < 1:
        assert drawn != [is_on_policy(share, 2, step, index) for step in range(500) for index in range(4)]


@pytest.mark.parametrize("key", ["packing", "neat_packing", "streaming", "train_on_prompt"])
def test_data_without_one_answer_a_row_are_refused(key):
    keys = dict.fromkeys(("packing", "neat_packing", "streaming", "train_on_prompt"), False)
    check_on_policy(SimpleNamespace(**keys), 1)
    keys |= {key: True, "packing": key.endswith("packing")}  # LLaMA-Factory sets `packing` with `neat_packing`
    with pytest.raises(ValueError, match=f"`{key}: true`.*Set `{key}: false`"):
        check_on_policy(SimpleNamespace(**keys), 1)


def test_answers_without_a_token_are_refused():
    keys = dict.fromkeys(("packing", "neat_packing", "streaming", "train_on_prompt"), False)
    for number in (0, -5):
        with pytest.raises(ValueError, match=f"max_new_tokens: {number}.*at least 1"):
            check_on_policy(SimpleNamespace(**keys), number)
