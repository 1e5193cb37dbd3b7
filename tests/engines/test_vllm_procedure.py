# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The whole procedure on the demo's rows with its teacher in a real vLLM, killed in every phase; then vLLM serves it.

The demo's own models have patches that are not merged, which vLLM does not load: these are others, with its tokens.
"""

import shutil
from pathlib import Path

import pytest
from phases.test_killed_at_random import check_same
from phases.test_survives import finished, kill_when
from PIL import Image
from safetensors.torch import load_file
from small_run import llamafactory_cli, losses, recipe, write_recipe
from tiny_models import CHAT_TEMPLATE, build_tiny_qwen2vl
from vllm_server import ask, vllm_python, vllm_server

from llamafactory_clinkd.rope import write_rope_config
from llamafactory_clinkd.utils.io import read_json, read_jsonl, write_json


pytest.importorskip("openai", reason="the openai client is not installed")
pytestmark = pytest.mark.long
DATA = Path(__file__).parents[2] / "llamafactory_clinkd" / "demo" / "data"
PHASES = ["pseudo_label", "distill", "correct", "predict", "evaluate"]
KILLS = [
    ("pseudo_label", "clinkd/pseudo_label/answers.jsonl.rank0"),
    ("distill", "clinkd/served_teacher/*.safetensors"),
    ("distill", "clinkd/distill/checkpoint-*/trainer_state.json"),
    ("correct", "clinkd/corrections/round-1.outputs.jsonl*"),
    ("correct", "clinkd/corrections/round-1.summary.json"),
    ("predict", "clinkd/predict/answers.jsonl.rank0"),
    ("evaluate", "clinkd/predictions.jsonl"),
]
TRAIN, TEST, TOKENS, TOP_K = 48, 100, 24, 20
# One request at a time and no kept prefixes: else the server's own roundings depend on what else it computes.
ALONE = ("--max-num-seqs", "1", "--no-enable-prefix-caching")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Rows of the demo, an untrained student, and a teacher that stock LLaMA-Factory trained on them."""
    vllm_python()
    folder = tmp_path_factory.mktemp("procedure")
    shutil.copytree(DATA, folder / "data")
    texts = []
    for name, count in (("demo_train", TRAIN), ("demo_test", TEST)):
        rows = read_json(DATA / f"{name}.json")
        texts += [message["content"] for row in rows for message in row["messages"]]
        write_json(folder / "data" / f"{name}.json", rows[:count])
    build_tiny_qwen2vl(folder / "student", hidden_size=128, seed=0, texts=texts)  # vLLM wants heads of 32 numbers
    build_tiny_qwen2vl(folder / "untrained", hidden_size=128, seed=1, texts=texts)
    for name in ("student", "untrained"):  # else LLaMA-Factory saves one that has no images
        (folder / name / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    stock = {
        "stage": "sft", "do_train": True, "finetuning_type": "full", "model_name_or_path": str(folder / "untrained"),
        "dataset_dir": str(folder / "data"), "dataset": "demo_train", "template": "qwen2_vl", "cutoff_len": 512,
        "output_dir": str(folder / "teacher"), "num_train_epochs": 15, "per_device_train_batch_size": 4,
        "learning_rate": 3e-3, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    done = llamafactory_cli("train", str(write_recipe(folder / "teacher.yaml", stock)))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def written_recipe(folder: Path, output_dir: Path, url: str) -> Path:
    keys = recipe(
        folder, output_dir, clinkd_phases=",".join(PHASES), ref_model=None, dataset="demo_train",
        eval_dataset="demo_test", generation_base_url=url, generation_phases="pseudo_label", kd_teacher_base_url=url,
        kd_teacher_top_k=TOP_K, kd_temperature=1, kd_epochs=16, pseudo_label_samples=TRAIN, rope_variant="mcg",
        image_square=True, corrector="offline", correction_rounds=2, sasg_candidates=1, max_new_tokens=TOKENS,
        per_device_train_batch_size=4, gradient_accumulation_steps=1, learning_rate=3e-3, save_strategy="steps",
        save_steps=12, save_total_limit=2, use_cpu=True,
    )  # fmt: skip
    return write_recipe(output_dir.with_suffix(".yaml"), keys)


@pytest.fixture(scope="module")
def runs(models, tmp_path_factory):
    """The run that nothing interrupted, and the one that was killed; one server is the teacher of both."""
    folder = tmp_path_factory.mktemp("runs")
    options = ("--enable-scale-out", "--max-logprobs", str(TOP_K), *ALONE)
    with vllm_server(models / "teacher", folder, *options) as url:
        whole = written_recipe(models, folder / "whole", url)
        done = llamafactory_cli("train", str(whole), timeout=1800)
        assert done.returncode == 0, done.stderr[-3000:]
        killed = written_recipe(models, folder / "killed", url)
        for phase, sign in KILLS:
            kill_when(killed, folder / "killed", phase, sign)
            assert finished(folder / "killed") == PHASES[: PHASES.index(phase)]
        done = llamafactory_cli("train", str(killed), timeout=1800)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder / "whole", folder / "killed"


def test_killed_in_every_phase(runs):
    whole, killed = runs
    assert finished(whole) == finished(killed) == PHASES
    check_same(killed, whole)
    assert scores(killed) == scores(whole) and len(scores(whole)) == TRAIN + TEST
    assert read_json(killed / "clinkd" / "metrics.json") == read_json(whole / "clinkd" / "metrics.json")
    labels = {row["pseudo_label"] for row in read_jsonl(whole / "clinkd" / "pseudo_labels.jsonl")}
    corrected = read_json(whole / "clinkd" / "corrections" / "round-1.summary.json")
    steps = {name: len(losses(whole / name)) for name in ("clinkd/distill", ".")}
    print(f"\n{len(labels)} different pseudo-labels, steps {steps}, corrections {corrected}")
    assert len(labels) > TRAIN // 4


def scores(output_dir: Path) -> dict[str, bytes]:
    """The kept scores of the teacher by row."""
    shards = (output_dir / "clinkd" / "served_teacher").glob("*.safetensors")
    return {key: value.numpy().tobytes() for shard in shards for key, value in load_file(shard).items()}


def test_vllm_gives_the_predictions_of_the_run(runs, tmp_path):
    with vllm_server(runs[0], tmp_path, clinkd_serve=True) as url:
        same, largest = compare(runs[0], url)
    stock = shutil.copytree(runs[0], tmp_path / "stock", ignore=shutil.ignore_patterns("clinkd", "checkpoint-*"))
    write_rope_config(stock, {"variant": "mrope", "image_square": False})
    with vllm_server(stock, tmp_path) as url:
        same_stock, largest_stock = compare(runs[0], url)
    texts = {row["candidates"][0]["text"] for row in read_jsonl(runs[0] / "clinkd" / "predictions.jsonl")}
    print(f"\n{same} of {TEST} texts ({len(texts)} different), log-probabilities within {largest:.2e};", end=" ")
    print(f"with stock positions {same_stock} texts, {largest_stock:.2e}")
    assert same >= 95 and largest < 1e-3
    assert len(texts) > 15 and largest_stock > 2e-3  # else the test could not tell the positions apart


def compare(run: Path, url: str) -> tuple[int, float]:
    """How many greedy answers are those of the run, and the largest difference of their log-probabilities."""
    rows = read_jsonl(run / "clinkd" / "predictions.jsonl")
    assert len(rows) == TEST
    options = {"max_tokens": TOKENS, "temperature": 0, "logprobs": True, "skip_special_tokens": False}
    same, largest = 0, 0.0
    for row in rows:
        choice = ask(url, row["question"], Image.open(row["image"]), **options)["choices"][0]
        [candidate] = row["candidates"]
        if choice["message"]["content"].removesuffix("<|im_end|>") == candidate["text"]:
            values = [token["logprob"] for token in choice["logprobs"]["content"]]
            same += 1
            largest = max(largest, abs(sum(values) / len(values) - candidate["logprob"]))
    return same, largest
