# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Bad input, given to real LLaMA-Factory: each is answered with what was found, what was expected, and the fix."""

import json
import shutil

import pytest
import torch
from small_run import drawn_rows, llamafactory_cli, recipe, teacher_with_swapped_tokens, write_recipe

from llamafactory_clinkd.arguments import ClinkdArguments
from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt
from llamafactory_clinkd.rope import write_rope_config


def run(keys):
    from llamafactory.train.tuner import run_exp

    run_exp(keys)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kd_alpha": -0.5}, ["kd_alpha: -0.5", ">= 0"]),
        ({"kd_temperature": 0}, ["kd_temperature: 0", ">= 0.001"]),
        ({"kd_temperature": "warm"}, ["kd_temperature: warm", "a number"]),
        ({"kd_temperature": float("nan")}, ["kd_temperature: nan", "a number"]),
        ({"mcg_alpha_h": 0}, ["mcg_alpha_h: 0", "an integer >= 1"]),
        ({"mcg_alpha_w": 1.5}, ["mcg_alpha_w: 1.5", "an integer"]),
        ({"correction_threshold": 80}, ["correction_threshold: 80", "<= 1"]),
        ({"sasg_candidates": True}, ["sasg_candidates: True", "an integer"]),
        ({"rope_variant": "rope3d"}, ["rope_variant: rope3d", "mrope, mcg, mcg_released, rope_2d, rope_mixed"]),
        ({"rope_sections": "0,32"}, ["rope_sections", "three integers"]),
        ({"rope_sections": "a,b,c"}, ["rope_sections", "three integers", "0,32,32"]),
        ({"rope_variant": "mrope", "mcg_alpha_h": 2}, ["mcg_alpha_h: 2", "rope_variant: mcg"]),
        ({"mcg_gap": 3}, ["mcg_gap: 3", "mcg_released"]),
        ({"clinkd_phases": "distill,pseudo_label"}, ["clinkd_phases", "in the order", "pseudo_label, distill"]),
        ({"clinkd_phases": "distil"}, ["clinkd_phases", "distil", "subset of pseudo_label, distill, correct"]),
        ({"clinkd_phases": []}, ["clinkd_phases", "non-empty"]),
        ({"ref_model": None}, ["`ref_model` is missing", "Set `ref_model`"]),
        ({"pseudo_label_target": "pseudo_label"}, ["pseudo_label_target: pseudo_label", "Add pseudo_label"]),
        ({"use_clinkd": False}, ["is a ClinKD key, but `use_clinkd` is false", "Set `use_clinkd: true`"]),
        ({"stage": "dpo"}, ["stage: dpo", "sft"]),
        ({"use_dft_loss": True}, ["use_dft_loss"]),
        ({"max_steps": 3}, ["max_steps: 3", "kd_epochs"]),
        ({"label_smoothing_factor": 0.1}, ["label_smoothing_factor: 0.1", "remove the key"]),
        ({"resume_from_checkpoint": "saves/other/checkpoint-2"}, ["saves/other/checkpoint-2", "model_name_or_path"]),
        ({"dataset": None, "do_train": False}, ["`dataset` is missing"]),
        ({"clinkd_phases": "predict", "eval_dataset": None}, ["`eval_dataset` is missing", "val_size"]),
        (
            {"clinkd_phases": "correct", "corrector": "openai", "correction_base_url": "https://example.invalid/v1"},
            ["correction_allow_remote"],
        ),
        *(
            (
                {"clinkd_phases": "distill,correct", "correction_outputs": "forward", key: True},
                [f"`{key}", "Set `", f"{key}: false`", "correction_outputs: generate"],
            )
            for key in ("packing", "train_on_prompt")
        ),
        ({"kd_temprature": 1.0}, ["kd_temprature"]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_keys(workspace, tmp_path, changes, expected):
    with pytest.raises(ValueError) as found:
        run(recipe(workspace, tmp_path / "out", **changes))
    assert [part for part in expected if part not in str(found.value)] == []


def test_every_default_is_valid_and_off_means_off():
    arguments = ClinkdArguments(use_clinkd=True, clinkd_phases="correct", kd_cache=False)
    arguments.check_clinkd()
    assert arguments.kd_cache == "off" and arguments.clinkd_phases == ["correct"]
    assert arguments.clinkd_dict()["rope_variant"] == "mcg"


@pytest.mark.parametrize("key", ["ref_model", "model_name_or_path"])
def test_model_path_that_does_not_exist(workspace, tmp_path, key):
    with pytest.raises(FileNotFoundError, match=f"`{key}: ./nowhere` does not exist"):
        run(recipe(workspace, tmp_path / "out", **{key: "./nowhere"}))


def test_spice_jars_that_are_not_there_are_reported_before_the_first_phase(workspace, tmp_path):
    keys = {"clinkd_phases": "distill,predict,evaluate", "spice_jars": str(tmp_path)}
    with pytest.raises(FileNotFoundError, match="SPICE needs stanford-corenlp-3.6.0.jar.*2015-12-09"):
        run(recipe(workspace, tmp_path / "out", **keys))
    assert not (tmp_path / "out" / "clinkd" / "distill").exists()


@pytest.mark.parametrize(
    ("phases", "key", "name", "message"),
    [
        ("distill,predict", "sasg_scorer", "BiomedCLIP", "Unknown scorer 'BiomedCLIP'"),
        ("distill,predict", "sasg_scorer", "ViT-B-32", "names no weights"),
        ("distill,correct", "correction_scorer", "ViT-B-32@none", "one of the weights of ViT-B-32"),
        ("distill,correct", "correction_similarity_model", "ViT-B-32", "names no weights"),
    ],
)
def test_scorer_that_is_none_is_reported_before_the_first_phase(workspace, tmp_path, phases, key, name, message):
    pytest.importorskip("open_clip")
    similarity = "clip" if key == "correction_similarity_model" else "lexical"
    keys = {"clinkd_phases": phases, key: name, "correction_similarity": similarity}
    with pytest.raises((RuntimeError, ValueError), match=message):
        run(recipe(workspace, tmp_path / "out", **keys))
    assert not (tmp_path / "out" / "clinkd" / "state.json").exists()


def test_a_hub_scorer_that_cannot_be_loaded_is_reported_before_the_first_phase(workspace, tmp_path, monkeypatch):
    """The default one, offline: after hours of training it would be too late."""
    pytest.importorskip("open_clip")
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: None)
    name = "hf-hub:nobody/no-such-clip"
    with pytest.raises(RuntimeError, match=f"'{name}' cannot be loaded: it is not in the local hub cache.*logprob"):
        run(recipe(workspace, tmp_path / "out", clinkd_phases="distill,predict", sasg_scorer=name))
    assert not (tmp_path / "out" / "clinkd" / "state.json").exists()


@pytest.mark.parametrize(
    ("name", "cached", "message"),
    [
        ("ViT-B-32@laion2b_s34b_b79k", (), "it is not in the local hub cache"),
        ("roberta-ViT-B-32@laion2b_s12b_b32k", ("laion/",), "roberta-base, its text tower, is not in the"),
        ("hf-hub:nobody/clip", ("nobody/clip",), "nobody/bert, its text tower, is not in the"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["sasg_scorer", "correction_scorer", "correction_similarity_model"])
def test_weights_and_text_towers_that_are_not_here_are_reported_before_the_first_phase(
    workspace, tmp_path, monkeypatch, name, cached, message, key
):
    pytest.importorskip("open_clip")
    import huggingface_hub

    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": {"text_cfg": {"hf_model_name": "nobody/bert"}}}))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda repository, file: str(config) if repository.startswith(cached) and cached else None,
    )
    similarity = "clip" if key == "correction_similarity_model" else "lexical"
    keys = {"clinkd_phases": "distill,correct,predict", key: name, "correction_similarity": similarity}
    with pytest.raises((RuntimeError, OSError), match=f"'{name}' cannot be loaded: {message}.*HF_HUB_OFFLINE"):
        run(recipe(workspace, tmp_path / "out", **keys))
    assert not (tmp_path / "out" / "clinkd" / "state.json").exists()


def test_a_sentence_model_that_is_not_here_is_reported_before_the_first_phase(workspace, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    keys = {"clinkd_phases": "distill,correct", "correction_similarity": "sentence"}
    with pytest.raises(FileNotFoundError, match="'nobody/no-such-model' cannot be loaded: it is not in the local hub"):
        run(recipe(workspace, tmp_path / "out", **keys, correction_similarity_model="nobody/no-such-model"))
    assert not (tmp_path / "out" / "clinkd" / "state.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_fp16_without_a_gpu_is_reported_before_the_first_phase(workspace, tmp_path):
    with pytest.raises(ValueError, match="`fp16: true` needs a GPU, and torch finds none. Remove the key"):
        run(recipe(workspace, tmp_path / "out", fp16=True))
    assert not (tmp_path / "out" / "clinkd" / "state.json").exists()


def test_positions_that_disagree_are_reported_before_the_first_phase(workspace, tmp_path):
    student = shutil.copytree(workspace / "student", tmp_path / "student")
    teacher = shutil.copytree(workspace / "teacher", tmp_path / "teacher")
    write_rope_config(student, {"variant": "mrope", "image_square": True})
    write_rope_config(teacher, {"variant": "rope_2d"})
    keys = {"clinkd_phases": "pseudo_label,distill", "model_name_or_path": str(student), "ref_model": str(teacher)}
    for written, message in (
        ({"rope_variant": "mcg"}, "The model was saved.*variant: saved 'mrope', requested 'mcg'"),
        ({"teacher_rope_variant": "mcg"}, "The teacher was saved.*variant: saved 'rope_2d', requested 'mcg'"),
    ):
        with pytest.raises(ValueError, match=message):
            run(recipe(workspace, tmp_path / "out", **keys, **written))
    assert not (tmp_path / "out" / "clinkd" / "state.json").exists()


def test_folder_without_a_model(workspace, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        run(recipe(workspace, tmp_path / "out", ref_model=str(tmp_path)))


def test_teacher_with_another_tokenizer(workspace, tmp_path):
    teacher, one, _ = teacher_with_swapped_tokens(workspace, tmp_path)
    with pytest.raises(ValueError) as found:
        run(recipe(workspace, tmp_path / "out", ref_model=str(teacher)))
    assert "2 tokens have other ids" in str(found.value) and f"{one!r} is" in str(found.value)


def test_teacher_with_another_image_processor(workspace, tmp_path):
    teacher = shutil.copytree(workspace / "teacher", tmp_path / "teacher")
    for path in (teacher / "processor_config.json", teacher / "preprocessor_config.json"):
        if path.is_file():
            path.write_text(path.read_text(encoding="utf-8").replace('"patch_size": 14', '"patch_size": 16'))
    with pytest.raises(ValueError, match="patch_size is 14 for the student and 16 for the teacher"):
        run(recipe(workspace, tmp_path / "out", ref_model=str(teacher)))


def data_folder(tmp_path, change):
    """A data folder whose rows and files ``change`` may spoil."""
    folder = tmp_path / "data"
    rows = drawn_rows(folder, 4)
    rows = change(folder, rows) or rows
    write_sharegpt(folder / "train.json", rows)
    write_dataset_info(folder, {"tiny_train": dataset_info_entry("train.json")})
    return {"dataset_dir": str(folder), "eval_dataset": None}


def truncated(folder, rows):
    path = folder / rows[2]["image"]
    path.write_bytes(path.read_bytes()[:-40])


def missing(folder, rows):
    (folder / rows[1]["image"]).unlink()


def not_an_image(folder, rows):
    (folder / rows[0]["image"]).write_text("not a picture")


def without_images(folder, rows):
    return [{"id": row["id"], "turns": [["What is a square?", "A shape."]]} for row in rows]


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        (truncated, ValueError, ["ct_002.png of row ct_002 cannot be used", "truncated", "clinkd data check"]),
        (missing, FileNotFoundError, ["ct_001.png of row ct_001 does not exist"]),
        (not_an_image, ValueError, ["ct_000.png of row ct_000 cannot be used"]),
        (without_images, ValueError, ["has no images", "rope_variant: mrope"]),
    ],
)
def test_images(workspace, tmp_path, change, error, expected):
    with pytest.raises(error) as found:
        run(recipe(workspace, tmp_path / "out", **data_folder(tmp_path, change)))
    assert [part for part in expected if part not in str(found.value)] == []


def text_model(folder):
    from tiny_models import build_qwen_tokenizer
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=151936, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    build_qwen_tokenizer().save_pretrained(folder)
    return str(folder)


def test_text_only_model_with_mcg(workspace, tmp_path):
    keys = recipe(
        workspace, tmp_path / "out", model_name_or_path=text_model(tmp_path / "text"), ref_model=None, template="qwen",
        kd_method="none", **data_folder(tmp_path, lambda folder, rows: None),
    )  # fmt: skip
    with pytest.raises((TypeError, ValueError)) as found:
        run(keys)
    assert "needs a model of the type qwen2_vl" in str(found.value) and "is of the type qwen2." in str(found.value)


def test_engine_that_computes_its_own_positions(workspace, tmp_path, monkeypatch):
    from llamafactory.chat.chat_model import get_infer_args
    from llamafactory.hparams import parser

    monkeypatch.setattr(parser, "_check_extra_dependencies", lambda *args: None)  # vLLM itself is not installed here
    keys = {"model_name_or_path": str(workspace / "student"), "template": "qwen2_vl", "infer_backend": "vllm"}
    with pytest.raises(ValueError, match="infer_backend: vllm` computes rotary positions itself"):
        get_infer_args({**keys, "use_clinkd": True, "clinkd_phases": "predict", "rope_variant": "mcg"})
    get_infer_args(keys)


@pytest.mark.slow
def test_changed_recipe_is_reported_and_never_mixed(workspace, tmp_path):
    keys = recipe(workspace, tmp_path / "out")
    run(keys)
    with pytest.raises(ValueError, match="kd_alpha was 0.5, is 0.6.*overwrite_output_dir"):
        run({**keys, "kd_alpha": 0.6})
    done = llamafactory_cli("train", str(write_recipe(tmp_path / "r.yaml", {**keys, "kd_alpha": 0.6})))
    assert done.returncode != 0 and "kd_alpha was 0.5, is 0.6" in done.stderr
    run({**keys, "kd_alpha": 0.6, "overwrite_output_dir": True})
    state = json.loads((tmp_path / "out" / "clinkd" / "state.json").read_text(encoding="utf-8"))
    assert state["phases"]["distill"]["inputs"]["kd_alpha"] == 0.6
