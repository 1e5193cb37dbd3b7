# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd init``: the recipe passes LLaMA-Factory's parsing and the recipe check; wrong answers end in one line."""

import json
import re
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image
from tiny_models import build_tiny_qwen2vl
from typer.testing import CliRunner

from llamafactory_clinkd.arguments import ClinkdArguments
from llamafactory_clinkd.cli import with_all_commands
from llamafactory_clinkd.doctor import clip_weights, new_recipe
from llamafactory_clinkd.doctor.new_recipe import FIXED, LADDER, _settings
from llamafactory_clinkd.doctor.plan import make_plan
from llamafactory_clinkd.utils.clip import require_hub_clip
from llamafactory_clinkd.utils.gpus import choose_gpu


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Forty questions about twenty pictures, in a CSV file and beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(new_recipe, "require_hub_clip", lambda name: None)  # as if it were in the cache
    lines = ["image,question,answer"]
    for number in range(20):
        Image.new("RGB", (60, 40), (number, 0, 0)).save(tmp_path / f"{number}.png")
        lines += [f"{number}.png,Is there a lesion?,no", f"{number}.png,Which organ is it?,liver"]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def init(*arguments, **options):
    return CliRunner().invoke(with_all_commands(), ["init", *arguments], **options)


ALL = ("--model", "Qwen/Qwen2-VL-2B-Instruct", "--teacher", "Qwen/Qwen2-VL-7B-Instruct", "--test", "split")


def test_the_recipe_passes_the_check_and_names_data_that_exists(folder):
    from llamafactory.hparams import get_train_args

    from llamafactory_clinkd.phases.validation import check_recipe

    model = build_tiny_qwen2vl(folder / "model")
    answers = ("--teacher", str(model), "--data", "rows.csv", "--test", "split", "--gpu", "4090", "--gpus", "1")
    done = init("mine.yaml", "--model", str(model), *answers)
    assert done.exit_code == 0, done.output
    keys = yaml.safe_load((folder / "mine.yaml").read_text())
    assert (keys["template"], keys["dataset"], keys["eval_dataset"]) == ("qwen2_vl", "mine_train", "mine_test")
    info = json.loads((folder / keys["dataset_dir"] / "dataset_info.json").read_text())
    assert keys["logging_steps"] == 1
    parts = [json.loads((folder / keys["dataset_dir"] / info[name]["file_name"]).read_text()) for name in
             (keys["dataset"], keys["eval_dataset"])]  # fmt: skip
    assert sum(map(len, parts)) == 40 and len(parts[1]) >= 4
    pictures = [{picture for row in part for picture in row["images"]} for part in parts]
    assert not pictures[0] & pictures[1]
    assert all((folder / keys["media_dir"] / picture).is_file() for picture in pictures[0] | pictures[1])
    arguments = get_train_args({**keys, "bf16": False})
    check_recipe(SimpleNamespace(**dict(zip(("model", "data", "training", "finetuning", "generating"), arguments))))  # noqa: B905


def test_six_questions_are_asked_and_each_is_a_flag(folder):
    done = init(input="\n\nrows.csv\n\n\n\n")
    assert done.exit_code == 0, done.output
    flags = ("--model", "--teacher", "--data", "--test", "--gpu", "--gpus")
    assert done.output.count("]:") + done.output.count("data set:") == len(flags)
    help_text = init("--help").output
    assert all(flag in help_text for flag in flags)


def test_a_prompt_with_a_wrong_answer_is_repeated(folder):
    done = init(input="./nowhere\n\n\nnofile.parquet\nrows.csv\n\nv100\n\n\n")
    assert done.exit_code == 0, done.output
    prompts = ("Model to train", "Teacher:", "Training data", "Test data", "GPU:", "Number of GPUs")
    assert [done.output.count(prompt) for prompt in prompts] == [2, 1, 2, 1, 2, 1], done.output
    for found in ("nofile.parquet is neither a file", "no config.json", "--gpu v100"):
        assert f"Error: {found}" in done.output or found in done.output
    before = done.output.partition("nofile.parquet is neither")[0]
    assert "Test data" not in before


def test_a_recipe_for_the_cpu_runs_in_fp32_and_has_the_epochs(folder):
    model = build_tiny_qwen2vl(folder / "model")
    answers = ("--model", str(model), "--teacher", str(model), "--data", "rows.csv", "--test", "split")
    done = init("mine.yaml", *answers, "--gpu", "cpu", "--gpus", "1")
    assert done.exit_code == 0 and "on this machine" in done.output, done.output
    text = (folder / "mine.yaml").read_text()
    keys = yaml.safe_load(text)
    assert not {"bf16", "fp16", "warmup_ratio", "ref_model_quantization_bit"} & keys.keys()
    assert (keys["image_max_pixels"], keys["warmup_steps"]) == (262144, 0.1)
    assert (keys["kd_epochs"], keys["correction_rounds"]) == (ClinkdArguments.kd_epochs, 2)
    assert "# epochs of phase distill" in text and "# epochs of phase correct" in text
    assert "clinkd doctor --plan mine.yaml --gpu cpu\n" in done.output
    planned = CliRunner().invoke(with_all_commands(), ["doctor", "--plan", "mine.yaml", "--gpu", "cpu"])
    assert planned.exit_code == 0, planned.output
    assert "time: not estimated on the CPU" in planned.output and "fits on this machine" in planned.output
    done = init("two.yaml", *answers, "--gpu", "cpu", "--gpus", "2")
    assert done.exit_code == 2 and "`--gpus 1`" in done.output


@pytest.mark.parametrize("problem", ["", r"it is not in the local hub cache, and C:\1 does not answer."])
def test_a_default_scorer_out_of_reach_is_replaced_and_the_reason_named(folder, monkeypatch, problem):
    def look(name):
        if problem:
            raise FileNotFoundError(problem)

    monkeypatch.setattr(new_recipe, "require_hub_clip", look)
    done = init("x.yaml", *ALL, "--data", "rows.csv", "--gpu", "h100", "--gpus", "1")
    assert done.exit_code == 0 and "  clinkd doctor --recipe x.yaml\n" in done.output, done.output
    text = (folder / "x.yaml").read_text()
    assert yaml.safe_load(text).get("sasg_scorer") == ("logprob" if problem else None)
    assert not problem or f"sasg_scorer: logprob  # not the paper's BiomedCLIP: {problem}\n" in text
    assert ("sasg_scorer: logprob" in done.output) == bool(problem)


def test_a_recipe_written_offline_has_a_scorer_that_runs_offline(folder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(new_recipe, "require_hub_clip", require_hub_clip)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: None)
    assert init("x.yaml", *ALL, "--data", "rows.csv", "--gpu", "h100", "--gpus", "1").exit_code == 0
    text = (folder / "x.yaml").read_text()
    assert "HF_HUB_OFFLINE is set" in text and clip_weights(yaml.safe_load(text)).state == "ok"


def test_without_a_terminal_the_missing_flags_are_named(folder):
    done = init("x.yaml", "--teacher", "none", "--gpu=4090", input="")
    assert done.exit_code == 2 and "Aborted" not in done.output
    assert done.output.strip().endswith("give --model, --data, --test, --gpus."), done.output


def test_settings_follow_the_memory(folder):
    """The fastest that fits: on 24 GB a 4-bit teacher with a large batch, else one without quantisation."""
    recipes = {}
    for gpu in ("4090", "h200"):
        done = init(f"{gpu}.yaml", *ALL, "--data", "rows.csv", "--gpu", gpu, "--gpus", "1")
        assert done.exit_code == 0 and f"of {139 if gpu == 'h200' else 23.5:g} GiB" in done.output, done.output
        recipes[gpu] = yaml.safe_load((folder / f"{gpu}.yaml").read_text())
    batch, bits = "per_device_train_batch_size", "ref_model_quantization_bit"
    assert [keys[batch] for keys in recipes.values()] == [8, 8]
    assert recipes["4090"][bits] == 4 and bits not in recipes["h200"]
    assert all(keys[batch] * keys["gradient_accumulation_steps"] == 16 for keys in recipes.values())


def test_of_the_settings_that_fit_the_one_with_the_fewest_hours_is_taken(folder):
    """A batch of 4 fits with the whole teacher; 8 with a quantised one has fewer hours."""
    card = choose_gpu("4090")._replace(gib=26)
    keys = {**FIXED, "model_name_or_path": ALL[1], "ref_model": ALL[3]}
    plans = {(step["batch"], len(step)): _plan_of(keys, step, card) for step in LADDER}
    hours = {step: sum(plan["seconds"].values()) for step, plan in plans.items() if plan["fits"]}
    assert (4, 1) in hours and (8, 1) not in hours and hours[8, 2] == min(hours.values())
    settings, _ = _settings(keys, 1, card, False)
    assert (settings["per_device_train_batch_size"], settings["ref_model_quantization_bit"]) == (8, 4)


def _plan_of(keys, step, card):
    batch = step["batch"]
    settings = {"per_device_train_batch_size": batch, "per_device_eval_batch_size": batch}
    settings |= {"gradient_accumulation_steps": 16 // batch} | {k: v for k, v in step.items() if k != "batch"}
    return make_plan(keys | settings, gpus=1, gib=0.9 * card.gib, gpu=card)


@pytest.mark.parametrize(("rows", "gpus", "steps"), [(36, 1, 1), (3200, 1, 10), (3200, 8, 2), (960, 1, 3)])
def test_a_short_run_logs_often(tmp_path, rows, gpus, steps):
    (tmp_path / "a.json").write_text(json.dumps([{}] * rows))
    (tmp_path / "dataset_info.json").write_text('{"a": {"file_name": "a.json"}}')
    batch = 8 if gpus == 8 else 1
    keys = {"dataset_dir": str(tmp_path), "dataset": "a", "per_device_train_batch_size": batch}
    keys["gradient_accumulation_steps"] = 1 if gpus == 8 else 16
    assert new_recipe._logging_steps(keys, gpus) == steps
    assert new_recipe._logging_steps({**keys, "dataset": "elsewhere"}, gpus) == 10


def test_boxes_are_in_the_convention_of_the_model_and_the_pixels_of_the_recipe(folder):
    """A box over the right half of a picture that the recipe's `image_max_pixels` shrinks, for Qwen2.5-VL."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    Image.new("RGB", (2000, 1000)).save(folder / "large.png")
    box = "<box>(500,0),(1000,1000)</box>"
    (folder / "boxes.jsonl").write_text(
        "".join(
            json.dumps({"image": "large.png", "question": f"Where is {n}?", "answer": box}) + "\n" for n in range(3)
        )
    )
    model, data = ("--model", "Qwen/Qwen2.5-VL-3B-Instruct", "--teacher", "none"), ("--data", "boxes.jsonl")
    done = init("b.yaml", *model, *data, "--test", "boxes.jsonl", "--gpu", "h100", "--gpus", "1")
    assert done.exit_code == 0 and "not planned" in done.output, done.output
    keys = yaml.safe_load((folder / "b.yaml").read_text())
    factor = (keys["image_max_pixels"] / (2000 * 1000)) ** 0.5  # LLaMA-Factory's resize, then the processor's
    height, width = smart_resize(int(1000 * factor), int(2000 * factor), factor=28)
    answer = json.loads((folder / "data/b/b_train.json").read_text())[0]["messages"][1]["content"]
    numbers = [int(number) for number in re.findall(r"\d+", answer)]
    assert numbers == pytest.approx([width / 2, 0, width, height], abs=1)


def test_the_folder_of_the_images_is_the_recipes(folder):
    (folder / "tables").mkdir()
    (folder / "rows.csv").rename(folder / "tables" / "rows.csv")
    data = ("--data", "tables/rows.csv", "--gpu", "h100", "--gpus", "1", "--image-folder", ".")
    assert init("one.yaml", *ALL, *data).exit_code == 0
    assert yaml.safe_load((folder / "one.yaml").read_text())["media_dir"] == "."


def test_without_a_teacher_and_with_data_sets_that_exist(folder):
    assert init("one.yaml", *ALL, "--data", "rows.csv", "--gpu", "h100", "--gpus", "2").exit_code == 0
    data = ("--data", "data/one:one_train", "--test", "data/one:one_test")
    done = init("two.yaml", *ALL[:2], "--teacher", "none", *data, "--gpu", "h100", "--gpus", "2")
    assert done.exit_code == 0, done.output
    keys = yaml.safe_load((folder / "two.yaml").read_text())
    assert "ref_model" not in keys and "distill" not in keys["clinkd_phases"] and "media_dir" not in keys
    assert (keys["dataset"], keys["eval_dataset"]) == ("one_train", "one_test")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"--data": "nothing.csv"}, "nothing.csv is neither a file"),
        ({"--gpu": "v100"}, "--gpu v100"),
        ({"--model": "somebody/some-model"}, "--template"),
        ({"--model": "./nowhere"}, "no config.json"),
    ],
)
def test_a_wrong_answer_ends_in_one_line(folder, changes, found):
    values = {"--model": ALL[1], "--teacher": "none", "--data": "rows.csv", "--test": "split", "--gpu": "h100"}
    done = init("x.yaml", *(word for pair in (values | changes).items() for word in pair), "--gpus", "1")
    assert done.exit_code == 2 and found in done.output and "Traceback" not in done.output
    assert len(done.output.strip().splitlines()) == 1 and not (folder / "x.yaml").exists()


def test_a_recipe_is_not_replaced_in_silence(folder):
    (folder / "x.yaml").write_text("mine: true\n")
    done = init("x.yaml", *ALL, "--data", "rows.csv", "--gpu", "h100", "--gpus", "1")
    assert done.exit_code == 2 and "--force" in done.output and (folder / "x.yaml").read_text() == "mine: true\n"
