# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd_config.json``: beside every saved model, applied without a key, and never silently overruled."""

import itertools
import json

import pytest

from llamafactory_clinkd.rope import read_rope_config, rope_settings
from llamafactory_clinkd.rope.mixed import FILE

from .runs import QUESTION, generated, infer_keys, prompt_of, train


pytestmark = pytest.mark.slow
LORA = {"finetuning_type": "lora", "lora_rank": 2, "lora_target": "q_proj,v_proj"}
SECTIONS = {"variant": "mcg", "alpha_h": 2, "alpha_w": 1, "gap": 2, "sections": [0, 4, 4], "image_square": False}
NO_CLINKD = dict.fromkeys(
    ("use_clinkd", "clinkd_phases", "pseudo_label_samples", "kd_epochs", "kd_method", "correction_similarity",
     "sasg_scorer")
)  # fmt: skip


@pytest.mark.parametrize("tuning", [{}, LORA], ids=["full", "lora"])
def test_every_setting_is_beside_checkpoint_and_model(tuning, sharp_workspace, tmp_path):
    keys = {"rope_variant": "mcg", "mcg_alpha_h": 2, "rope_sections": "0,4,4", "image_square": False}
    train(sharp_workspace, tmp_path, **keys, **tuning)
    for folder in (tmp_path, tmp_path / "checkpoint-1"):
        assert read_rope_config(folder) == SECTIONS


def test_learned_frequencies_are_beside_checkpoint_and_adapter(trained):
    for folder in (trained("rope_mixed", **LORA), trained("rope_mixed")):
        assert (folder / FILE).is_file() and (folder / "checkpoint-1" / FILE).is_file()


def test_chat_refuses_other_positions(trained):
    from llamafactory.chat import ChatModel

    keys = {"use_clinkd": True, "clinkd_phases": "predict", "rope_variant": "rope_2d"}
    with pytest.raises(ValueError, match="variant: saved 'mcg', requested 'rope_2d'"):
        ChatModel(infer_keys(trained("mcg"), **keys))


def test_training_refuses_other_positions(trained, sharp_workspace, tmp_path):
    with pytest.raises(ValueError, match="variant: saved 'mcg', requested 'mcg_released'"):
        train(sharp_workspace, tmp_path, model_name_or_path=str(trained("mcg")), rope_variant="mcg_released")


def test_training_takes_the_saved_positions_where_the_recipe_says_nothing(trained, sharp_workspace, tmp_path):
    """Positions and pixels of a second training are the first one's, and so is what is recorded."""
    saved = trained("rope_2d", image_square=False, rope_sections="0,4,4")
    train(sharp_workspace, tmp_path, model_name_or_path=str(saved), num_train_epochs=1, save_strategy="no")
    assert read_rope_config(tmp_path) == read_rope_config(saved)
    inputs = json.loads((tmp_path / "clinkd" / "state.json").read_text())["phases"]["distill"]["inputs"]
    assert (inputs["rope_variant"], inputs["rope_sections"], inputs["image_square"]) == ("rope_2d", [0, 4, 4], False)


def test_chat_takes_the_saved_positions_with_the_switch_alone(trained):
    from llamafactory.chat import ChatModel

    engine = ChatModel(infer_keys(trained("rope_2d"), use_clinkd=True, clinkd_phases="predict")).engine
    assert rope_settings(engine.model)["variant"] == "rope_2d"


def test_stock_prediction_needs_no_key(trained, sharp_workspace, tmp_path, monkeypatch):
    """LLaMA-Factory's own ``do_predict``, without a ClinKD key, answers as chat does."""
    from llamafactory.chat import ChatModel
    from llamafactory.hparams import parser
    from llamafactory.train.sft import workflow

    # Stock's scores (BLEU-4, ROUGE) need jieba, nltk and rouge_chinese; what is tested are the answers.
    monkeypatch.setattr(parser, "check_version", lambda *args, **kwargs: None)
    monkeypatch.setattr(workflow, "ComputeSimilarity", lambda tokenizer: lambda predictions: {})
    keys = NO_CLINKD | {
        "model_name_or_path": str(trained("rope_2d")), "do_train": False, "do_predict": True, "dataset": None,
        "predict_with_generate": True, "do_sample": False, "freeze_vision_tower": None,
        "per_device_eval_batch_size": 2,
    }  # fmt: skip
    train(sharp_workspace, tmp_path, **keys)
    predicted = [json.loads(line)["predict"] for line in open(tmp_path / "generated_predictions.jsonl")]

    engine = ChatModel(infer_keys(trained("rope_2d"))).engine
    special = set(engine.tokenizer.all_special_ids)  # `do_predict` ends an answer at any of them, chat does not
    answers = []
    for row in json.load(open(sharp_workspace / "data" / "test.json")):
        image = sharp_workspace / "data" / row["images"][0]
        question = row["messages"][0]["content"].removeprefix("<image>")
        new, _ = generated(engine, prompt_of(engine, [str(image)], question), image)
        answers.append(engine.tokenizer.decode(list(itertools.takewhile(lambda t: t not in special, new[:6]))))
    assert any(answers) and predicted == answers


def test_stock_training_keeps_the_positions(trained, sharp_workspace, tmp_path):
    keys = NO_CLINKD | {"model_name_or_path": str(trained("rope_mixed")), "num_train_epochs": 1, "save_strategy": "no"}
    train(sharp_workspace, tmp_path, **keys)
    assert read_rope_config(tmp_path) == read_rope_config(trained("rope_mixed"))
    before, after = (folder / FILE for folder in (trained("rope_mixed"), tmp_path))
    assert after.is_file() and after.read_bytes() != before.read_bytes()


def test_preference_training_keeps_the_positions(trained, sharp_workspace, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    answers = {key: {"role": "assistant", "content": text} for key, text in (("chosen", "Left."), ("rejected", "Up."))}
    image = str(sharp_workspace / "data" / "images" / "ct_000.png")
    row = {"messages": [{"role": "user", "content": "<image>" + QUESTION}], "images": [image], **answers}
    (data / "pairs.json").write_text(json.dumps([row, row]))
    columns = {"messages": "messages", "images": "images", "chosen": "chosen", "rejected": "rejected"}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"file_name": "pairs.json", "formatting": "sharegpt", "ranking": True, "columns": columns, "tags": tags}
    (data / "dataset_info.json").write_text(json.dumps({"pairs": entry}))
    keys = NO_CLINKD | {
        "model_name_or_path": str(trained("mcg")), "stage": "dpo", "dataset_dir": str(data), "dataset": "pairs",
        "eval_dataset": None, "num_train_epochs": 1, "save_strategy": "no", "ref_model": str(trained("mcg")),
    }  # fmt: skip
    train(sharp_workspace, tmp_path / "out", **keys)
    assert read_rope_config(tmp_path / "out") == read_rope_config(trained("mcg"))


def test_a_stock_model_stays_stock(sharp_workspace, tmp_path):
    from llamafactory.chat import ChatModel

    keys = NO_CLINKD | {"num_train_epochs": 1, "save_strategy": "no"}
    train(sharp_workspace, tmp_path, **keys)
    assert not (tmp_path / "clinkd_config.json").exists()
    assert rope_settings(ChatModel(infer_keys(tmp_path)).engine.model) is None
