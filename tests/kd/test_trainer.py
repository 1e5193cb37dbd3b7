# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The trainer's loss against an independent fp64 computation from both models' logits, one row at a time."""

import copy

import pytest
import torch
from kd_runs import distil, history
from small_run import losses, recipe

from llamafactory_clinkd.rope import apply_rope
from llamafactory_clinkd.utils.io import read_jsonl


def reference_sums(student, teacher, batch, alpha, temperature):
    """Eq. 12-16 written out for one unpadded row: sum of the loss over its supervised tokens, and their number."""
    labels = batch.pop("labels")
    batch = {
        key: value for key, value in batch.items() if key not in ("position_ids", "rope_deltas", "attention_mask")
    }
    batch["mm_token_type_ids"] = (batch["input_ids"] == student.config.image_token_id).long()
    batch["pixel_values"] = batch["pixel_values"].double()
    z_s = student(**batch).logits[0, :-1].double()
    z_t = teacher(**batch).logits[0, :-1].double()
    total, count = 0.0, 0
    for position, label in enumerate(labels[0, 1:].tolist()):
        if label == -100:
            continue
        p_s = torch.softmax(z_s[position], dim=-1)
        smooth_s = torch.softmax(z_s[position] / temperature, dim=-1)
        smooth_t = torch.softmax(z_t[position] / temperature, dim=-1)
        divergence = (smooth_t * (smooth_t.log() - smooth_s.log())).sum()
        total += (-p_s[label].log() + alpha * temperature**2 * divergence) / (1 + alpha)
        count += 1
    return float(total), count


@pytest.fixture
def stock_batches(small_workspace, tmp_path):
    """Each training row as stock's collator makes it, alone and therefore without padding."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, training_args, *_ = get_train_args(recipe(small_workspace, tmp_path / "unused"))
    module = load_tokenizer(model_args)
    from llamafactory_clinkd.rope.square import prepared_template

    template = prepared_template(get_template_and_fix_tokenizer(module["tokenizer"], data_args), square=True)
    data = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
    collate = SFTDataCollatorWith4DAttentionMask(template=template, **module)
    return [collate([copy.deepcopy(data[index])]) for index in range(len(data))]


@torch.no_grad()
def test_loss_is_the_papers_over_the_accumulation_window(small_workspace, tmp_path, stock_batches):
    from llamafactory.train.tuner import run_exp
    from transformers import AutoModelForImageTextToText

    keys = recipe(
        small_workspace,
        tmp_path / "out",
        learning_rate=1e-30,
        disable_shuffling=True,
        kd_alpha=0.7,
        kd_temperature=2.0,
    )
    with torch.enable_grad():
        run_exp(keys)

    def load(name):
        return AutoModelForImageTextToText.from_pretrained(small_workspace / name, dtype=torch.float64).eval()

    student, teacher = apply_rope(load("student"), "mcg"), load("teacher")
    sums = [reference_sums(student, teacher, batch, alpha=0.7, temperature=2.0) for batch in stock_batches]
    lengths = {batch["input_ids"].shape[1] for batch in stock_batches}
    assert len(lengths) > 1, "rows of one length would not test padding"
    expected = [
        sum(total for total, _ in window) / sum(count for _, count in window) for window in (sums[:4], sums[4:8])
    ]
    assert losses(tmp_path / "out") == pytest.approx(expected, rel=1e-5)


def test_gradient_of_a_window_does_not_depend_on_its_number_of_batches(small_workspace, tmp_path):
    """transformers 5.2.0 to 5.5.3 divides it by that number, so that `max_grad_norm` clips too rarely."""
    parts = ("grad_norm",)
    keys = {"disable_shuffling": True, "lr_scheduler_type": "constant", "learning_rate": 1e-6}
    split, whole = (
        history(distil(small_workspace, tmp_path / str(n), gradient_accumulation_steps=n, **keys, **batch), parts)
        for n, batch in ((4, {"per_device_train_batch_size": 1}), (1, {"per_device_train_batch_size": 4}))
    )
    assert len(split) == len(whole) == 4
    for one, other in zip(split, whole, strict=True):
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_parts_are_logged_plotted_and_add_up(small_workspace, tmp_path):
    out = distil(
        small_workspace, tmp_path / "on", plot_loss=True, kd_alpha=0.7, per_device_train_batch_size=3,
        logging_steps=2,
    )  # fmt: skip
    parts = ("ce", "kl", "teacher_agreement", "teacher_entropy")
    lines = [line for line in read_jsonl(out / "trainer_log.jsonl") if "loss" in line]
    assert len(lines) == len(history(out)) > 1
    for line, entry in zip(lines, history(out), strict=True):
        assert line["loss"] == pytest.approx((line["ce"] + 0.7 * line["kl"]) / 1.7, rel=1e-3)  # stock rounds the loss
        assert all(line[name] == entry[name] for name in parts)
        assert 0 <= line["teacher_agreement"] <= 1 and line["teacher_entropy"] > 0
    assert {path.name for path in out.glob("training_*.png")} == {f"training_{name}.png" for name in ("loss", *parts)}


def test_stock_logs_and_plots_what_it_did(small_workspace, tmp_path):
    keys = {"use_clinkd": None, "ref_model": None, "num_train_epochs": 1, "plot_loss": True}
    keys |= dict.fromkeys(
        ("clinkd_phases", "pseudo_label_samples", "correction_similarity", "sasg_scorer", "kd_epochs")
    )
    out = distil(small_workspace, tmp_path, **keys)
    lines = [line for line in read_jsonl(out / "trainer_log.jsonl") if "loss" in line]
    assert lines and not any({"ce", "kl"} & line.keys() for line in lines)
    assert [path.name for path in out.glob("training_*.png")] == ["training_loss.png"]
