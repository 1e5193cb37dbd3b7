# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""On-policy distillation with every teacher kind, and with odd rows, models and recipes."""

import math
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from kd_runs import StopAt, direct_losses, distil, history, quantised, same_bits, teacher_adapter, weights
from small_run import recipe
from transformers import AutoModelForImageTextToText, AutoTokenizer

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info
from llamafactory_clinkd.kd import on_policy_trainer
from llamafactory_clinkd.kd.rollouts import Rollouts
from llamafactory_clinkd.kd.teacher import OffloadedTeacher, Teacher
from llamafactory_clinkd.phases.validation import _warn_of_unused
from llamafactory_clinkd.utils.io import read_json, write_json


pytestmark = pytest.mark.usefixtures("one_thread")
KEYS = {
    "kd_on_policy": 1.0, "kd_rollout_every": 2, "kd_epochs": 1, "pseudo_label_samples": 8, "rope_variant": "mrope",
    "kd_temperature": 2.0, "kd_divergence": "jsd", "kd_beta": 0.3, "learning_rate": 1e-30,
}  # fmt: skip
PARTS = ("loss", "kl_on_policy", "rollout_length", "rollout_empty", "on_policy_share")


@quantised
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_teacher(small_workspace, tmp_path, rounds, monkeypatch, bits):
    models, make = [], Teacher.__init__
    monkeypatch.setattr(
        Teacher, "__init__", lambda self, model, **more: models.append(model) or make(self, model, **more)
    )
    out = distil(small_workspace, tmp_path / "out", ref_model_quantization_bit=bits, **KEYS)
    assert {4: "Linear4bit", 8: "Linear8bitLt"}[bits] in {type(each).__name__ for each in models[0].modules()}
    student = AutoModelForImageTextToText.from_pretrained(small_workspace / "student").eval()
    expected = direct_losses(rounds, student, models[0])
    losses = [entry["loss"] for entry in history(out)]
    assert losses == pytest.approx(expected, rel=1e-3)
    plain = AutoModelForImageTextToText.from_pretrained(small_workspace / "teacher").eval()
    assert losses != pytest.approx(direct_losses(rounds, student, plain), rel=1e-3)


def test_an_offloaded_teacher(small_workspace, tmp_path, monkeypatch):
    made, make = [], OffloadedTeacher.prepare
    monkeypatch.setattr(OffloadedTeacher, "prepare", lambda self, *args: made.append(self) or make(self, *args))
    keys = KEYS | {"learning_rate": 1e-3}
    here = distil(small_workspace, tmp_path / "here", **keys)
    away = distil(small_workspace, tmp_path / "away", kd_teacher_offload=True, **keys)
    assert len(made) == 1 and history(here, PARTS) == history(away, PARTS)
    assert same_bits(weights(here), weights(away))


def test_adapters_over_the_base_are_that_teacher_loaded_apart(small_workspace, tmp_path, monkeypatch):
    keys = KEYS | teacher_adapter(small_workspace, tmp_path / "adapter") | {"learning_rate": 1e-2}
    shared = distil(small_workspace, tmp_path / "shared", **keys)
    monkeypatch.setattr("llamafactory_clinkd.phases.distill._shares_base", lambda *args: False)
    apart = distil(small_workspace, tmp_path / "apart", **keys)
    for ours, theirs in zip(history(shared, PARTS), history(apart, PARTS), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4) and ours["loss"] > 1e-6


def test_all_rollouts_empty(small_workspace, tmp_path, monkeypatch, caplog):
    def sample(model, batches, **options):
        return Rollouts([[] for batch in batches for _ in batch["labels"]], 0, 0)

    monkeypatch.setattr(on_policy_trainer, "sample", sample)
    out = distil(small_workspace, tmp_path / "out", **KEYS | {"learning_rate": 1e-3, "weight_decay": 0.0})
    entries = read_json(out / "trainer_state.json")["log_history"]
    steps = [entry for entry in entries if "loss" in entry]
    assert all(math.isfinite(value) for entry in steps for value in entry.values())
    assert all(entry["loss"] == entry["on_policy_share"] == 0 for entry in steps)
    assert {entry["rollout_empty"] for entry in steps if "rollout_empty" in entry} == {1.0}
    assert "rollouts of step 0 are empty: the step learns nothing" in caplog.text
    before = AutoModelForImageTextToText.from_pretrained(small_workspace / "student").state_dict()
    after = AutoModelForImageTextToText.from_pretrained(out).state_dict()
    assert same_bits(before, after)


def test_prompts_that_were_cut_are_not_continued(small_workspace, tmp_path, rounds):
    """Two questions of eight fit into the recipe's length; the others are counted as empty."""
    out = distil(small_workspace, tmp_path / "out", **KEYS | {"cutoff_len": 48})
    batches = [each for batches, _ in rounds for each in batches]
    whole = [int(each["attention_mask"].sum()) == 48 and int((each["labels"] != -100).sum()) == 9 for each in batches]
    assert [bool(answer) for _, result in rounds for answer in result.answers] == whole and sum(whole) == 2
    empty = [entry["rollout_empty"] for entry in history(out, PARTS) if "rollout_empty" in entry]
    assert sum(empty) / len(empty) == 0.75


def test_ids_that_the_teacher_lacks_are_not_sampled(small_workspace, tmp_path, rounds):
    """The student's embedding is padded to a round number, and it likes the padding."""
    student = AutoModelForImageTextToText.from_pretrained(small_workspace / "student")
    width = student.config.text_config.vocab_size
    student.resize_token_embeddings(width + 64)
    with torch.no_grad():
        student.get_output_embeddings().weight[width:] *= 0
        student.get_output_embeddings().weight[width:] += student.get_output_embeddings().weight[:64] * 9
    student.save_pretrained(tmp_path / "student")
    AutoTokenizer.from_pretrained(small_workspace / "student").save_pretrained(tmp_path / "student")
    for name in ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"):
        if (small_workspace / "student" / name).is_file():
            (tmp_path / "student" / name).write_bytes((small_workspace / "student" / name).read_bytes())
    out = distil(small_workspace, tmp_path / "out", model_name_or_path=str(tmp_path / "student"), **KEYS)
    answers = [answer for _, result in rounds for answer in result.answers]
    assert any(answers) and max(map(max, filter(None, answers))) < width
    assert all(entry["kl_on_policy"] > 0 for entry in history(out, PARTS))


def test_another_order_of_the_rows_is_not_given_the_saved_answers(small_workspace, tmp_path):
    """As after a change of the number of processes, in which the sampled batches stay the same."""
    keys = KEYS | {"kd_epochs": 1, "kd_rollout_every": 3, "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(StopAt.Stopped):
        distil(small_workspace, tmp_path / "out", [StopAt(3)], **keys)
    path = tmp_path / "out" / "checkpoint-2" / "rollouts-0.json"
    saved = read_json(path)
    assert len(saved["prompts"]) == len(saved["answers"]) == 1
    write_json(path, saved | {"prompts": ["of other rows"]})
    with pytest.raises(ValueError, match="rollouts at step 2 do not fit.*number of processes"):
        distil(small_workspace, tmp_path / "out", **keys)


def test_the_student_samples_without_dropout_and_with_its_cache(small_workspace, tmp_path, monkeypatch):
    """Though the recipe trains with dropout and gradient checkpointing."""
    stock, widths, modes = on_policy_trainer.sample, [], []

    def sample(model, batches, **options):
        modes.append([any(each.training for each in model.modules()), model.is_gradient_checkpointing])
        inner = next(each for name, each in model.named_modules() if name.endswith("language_model"))
        hook = inner.register_forward_pre_hook(
            lambda module, args, kwargs: widths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )
        try:
            return stock(model, batches, **options)
        finally:
            hook.remove()

    monkeypatch.setattr(on_policy_trainer, "sample", sample)
    keys = {"finetuning_type": "lora", "lora_rank": 2, "lora_target": "q_proj,v_proj", "lora_dropout": 0.5}
    distil(small_workspace, tmp_path / "out", **KEYS | keys)
    assert modes == [[False, True]] * 2
    assert sum(width > 1 for width in widths) == 2 and 1 in widths


def check_same_without_features(workspace, folder, monkeypatch, rows, **changes):
    """Features of a round that some batches lack, against the run that computes them for every reader."""
    write_json(folder / "rows.json", rows)
    entry = dataset_info_entry("rows.json")
    entry["columns"] |= {"videos": "videos"} if "videos" in rows[0] else {}
    write_dataset_info(folder, {"odd": entry})
    keys = KEYS | {"dataset": "odd", "dataset_dir": str(folder), "disable_shuffling": True, "learning_rate": 1e-3}
    keys |= {"freeze_vision_tower": True, "pseudo_label_samples": 4, "kd_rollout_every": 100, **changes}
    once = distil(workspace, folder / "once", **keys)
    monkeypatch.setattr(on_policy_trainer.TowerFeatures, "of", lambda student, teacher: None)
    apart = distil(workspace, folder / "apart", **keys)
    assert history(once, PARTS) == history(apart, PARTS) and same_bits(weights(once), weights(apart))


def test_rows_without_an_image_and_with_two(small_workspace, tmp_path, rounds, monkeypatch):
    rows = read_json(small_workspace / "data" / "train.json")[:4]
    images = [str(small_workspace / "data" / name) for row in rows for name in row["images"]]
    for row, own in zip(rows, (images[:1], [], images[1:3], images[3:]), strict=True):
        row["images"], question = own, row["messages"][0]
        question["content"] = "<image>" * len(own) + question["content"].replace("<image>", "")
    check_same_without_features(small_workspace, tmp_path, monkeypatch, rows)
    assert len(rounds[0][1].answers) == 4 and all(rounds[0][1].answers)


def test_rows_that_do_not_fill_the_last_batch_and_window(small_workspace, tmp_path, rounds):
    """Batches of 3, 3 and 1 rows, some without an image, in windows of two: as every row in a batch of its own."""
    rows = read_json(small_workspace / "data" / "train.json")[:7]
    for number, row in enumerate(rows):
        row["images"] = [str(small_workspace / "data" / name) for name in row["images"]]
        if number % 3 == 1:
            row["images"], question = [], row["messages"][0]
            question["content"] = question["content"].replace("<image>", "")
    write_json(tmp_path / "rows.json", rows)
    write_dataset_info(tmp_path, {"odd": dataset_info_entry("rows.json")})
    keys = KEYS | {"dataset": "odd", "dataset_dir": str(tmp_path), "disable_shuffling": True, "kd_epochs": 2}
    keys |= {"kd_rollout_temperature": 0.0, "kd_rollout_every": 9, "learning_rate": 1e-3}
    ones = distil(small_workspace, tmp_path / "ones", gradient_accumulation_steps=6, **keys)
    singly = [answer for _, result in rounds for answer in result.answers]
    rounds.clear()
    keys |= {"per_device_train_batch_size": 3, "dataloader_num_workers": 2}
    threes = distil(small_workspace, tmp_path / "threes", **keys)
    assert [answer for _, result in rounds for answer in result.answers] == singly and len(singly) == 14
    assert len(history(threes, PARTS)) == 4
    for ours, theirs in zip(history(ones, PARTS), history(threes, PARTS), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_pseudo_labels_as_targets_of_the_other_batches(small_workspace, tmp_path, rounds):
    keys = {"clinkd_phases": "pseudo_label,distill", "pseudo_label_target": "pseudo_label", "kd_on_policy": 0.5}
    out = distil(small_workspace, tmp_path / "out", **KEYS | keys | {"kd_epochs": 2})
    shares = [entry["on_policy_share"] for entry in history(out, PARTS)]
    assert any(share > 0 for share in shares) and any(share < 1 for share in shares)
    assert len(rounds) > 0 and all(all(result.answers) for _, result in rounds)


def test_videos_beside_images(small_workspace, tmp_path, rounds, monkeypatch):
    rows = read_json(small_workspace / "data" / "train.json")[:4]
    images = [str(small_workspace / "data" / name) for row in rows for name in row["images"]]
    for row in rows:
        row |= {"images": images[:1], "videos": [images]}
        row["messages"][0]["content"] = "<video>" + row["messages"][0]["content"]
    # Stock's positions of videos are wrong in transformers 5.3.0 to 5.5.4, and a run with them is refused.
    positions = {"rope_variant": "mcg", "teacher_rope_variant": "mcg"}
    check_same_without_features(small_workspace, tmp_path, monkeypatch, rows, **positions)
    assert [len(answer) > 0 for answer in rounds[0][1].answers] == [True] * 4


def test_the_templates_end_ends_an_answer_though_the_models_own_is_another(small_workspace, tmp_path, monkeypatch):
    """A base model's generation settings name another token than the chat template writes after an answer."""
    copied = shutil.copytree(small_workspace / "student", tmp_path / "student")
    tokenizer = AutoTokenizer.from_pretrained(copied)
    write_json(copied / "generation_config.json", {"eos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>")})
    stock, ends = on_policy_trainer.sample, []

    def sample(model, batches, *, settings, **options):
        ends.append(set(settings["eos_token_id"]))
        return stock(model, batches, settings=settings, **options)

    monkeypatch.setattr(on_policy_trainer, "sample", sample)
    distil(small_workspace, tmp_path / "out", model_name_or_path=str(copied), **KEYS)
    assert set(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])) <= ends[0]


def test_evaluation_inside_a_round_changes_nothing(small_workspace, tmp_path):
    keys = KEYS | {"learning_rate": 1e-3, "kd_rollout_every": 3}
    plain = distil(small_workspace, tmp_path / "plain", **keys)
    keys |= {"eval_dataset": "tiny_test", "eval_strategy": "steps", "eval_steps": 1}
    evaluated = distil(small_workspace, tmp_path / "evaluated", **keys)
    assert history(plain, PARTS) == history(evaluated, PARTS) and same_bits(weights(plain), weights(evaluated))
    entries = read_json(evaluated / "trainer_state.json")["log_history"]
    assert sum("eval_loss" in entry for entry in entries) == 4


def test_noise_without_alpha_acts_on_rollouts(small_workspace, tmp_path):
    from llamafactory.hparams import get_train_args

    keys = {"kd_alpha": 0.0, "kd_noise_std": 0.1}
    get_train_args(recipe(small_workspace, tmp_path / "out", kd_on_policy=1.0, **keys))
    with pytest.raises(ValueError, match="kd_noise_std` has no effect"):
        get_train_args(recipe(small_workspace, tmp_path / "out", **keys))


def test_what_has_no_effect_without_ground_truths_is_named(small_workspace, tmp_path, caplog):
    """The line of the first batch has the divergence of sampled tokens, which have no cross-entropy."""
    out = distil(small_workspace, tmp_path / "out", **KEYS | {"kd_alpha": 0.7, "kd_rollout_temperature": 0.0})
    assert "`kd_alpha: 0.7` has no effect on the loss: with `kd_on_policy: 1` every batch" in caplog.text
    assert "pseudo_label_target" not in caplog.text and "cross-entropy" not in caplog.text
    (line,) = re.findall(r"First batch, 6 sampled tokens: distillation ([\d.]+), teacher's entropy", caplog.text)
    assert float(line) == pytest.approx(history(out, PARTS)[0]["kl_on_policy"], rel=0.5) and float(line) > 0

    keys = {"clinkd_written": (), "kd_on_policy": 1.0, "pseudo_label_target": "pseudo_label"}
    for hint, named in ((None, True), ("{answer}", False)):  # a hint has the label
        caplog.clear()
        _warn_of_unused(SimpleNamespace(**keys, kd_teacher_prompt=hint))
        assert ("`pseudo_label_target: pseudo_label` has no effect" in caplog.text) == named


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kd_cache": "hidden"}, "kd_cache: hidden.*off with `kd_on_policy`"),
        ({"kd_method": "vkd"}, "kd_method: vkd.*pseudo_kd with `kd_on_policy`"),
        ({"kd_on_policy": 1.5}, "kd_on_policy: 1.5"),
        ({"kd_on_policy": 0.0, "kd_rollout_every": 2}, "kd_rollout_every: 2"),
        ({"kd_rollout_every": 0}, "kd_rollout_every: 0"),
        ({"kd_rollout_top_p": 0.0}, "kd_rollout_top_p: 0"),
        ({"kd_rollout_top_p": 0.5, "kd_rollout_temperature": 0.0}, "kd_rollout_top_p: 0.5.*takes the likeliest token"),
        ({"kd_rollout_temperature": 1e-45}, "kd_rollout_temperature: 1e-45.*0, or at least 0.001"),
        ({"kd_teacher_prompt": "{answer} or {answer}"}, "kd_teacher_prompt.*one {answer}"),
    ],
)
def test_recipes_that_are_refused(small_workspace, tmp_path, changes, message):
    from llamafactory.hparams import get_train_args

    with pytest.raises(ValueError, match=message):
        get_train_args(recipe(small_workspace, tmp_path / "out", **{"kd_on_policy": 1.0} | changes))
