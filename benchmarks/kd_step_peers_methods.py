# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One run of a method of ``kd_step_peers.py``; prints a JSON line. Each peer's needs torch, transformers and the peer.

Every method is measured in its own trainer's ``training_step``. A peer's trainer gets the batch that stock
LLaMA-Factory's collator made in place of what it would sample or collate.
"""

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from kd_step_peers_common import (
    Method,
    Recorder,
    each_training_step,
    load_batch,
    load_models,
    save_batch,
    save_reference,
)


ALPHA = 0.5


def llamafactory(case: dict[str, Any], recorder: Recorder | None, **changes: Any) -> str:
    """A full fine-tuning whose learning rate is 0, so that every step finds the same weights."""
    from llamafactory.hparams import parser
    from llamafactory.train.tuner import run_exp

    def measured(stock: Any, trainer: Any, model: Any, inputs: Any, items: Any) -> Any:
        return recorder.step(lambda: stock(trainer, model, inputs, items), model)

    def keep_batch(stock: Any, trainer: Any, model: Any, inputs: Any, items: Any) -> Any:
        save_batch(case, inputs, model.config)
        return stock(trainer, model, inputs, items)

    if case["dtype"] == "bf16":  # stock allows `pure_bf16` on GPUs only; the CPU's kernels have it too
        parser.is_torch_bf16_gpu_available = lambda: True
    folder = Path(case["folder"])
    with tempfile.TemporaryDirectory() as output, each_training_step(measured if recorder else keep_batch):
        keys = {
            "model_name_or_path": str(folder / "student"), "stage": "sft", "do_train": True,
            "finetuning_type": "full", "freeze_vision_tower": True, "freeze_multi_modal_projector": True,
            "dataset_dir": str(folder / "data"), "dataset": "train", "template": "qwen2_vl",
            "cutoff_len": case["length"], "output_dir": output, "overwrite_cache": True, "save_strategy": "no",
            "per_device_train_batch_size": case["rows"], "gradient_accumulation_steps": 1, "learning_rate": 0.0,
            "optim": "sgd", "max_grad_norm": 0.0, "num_train_epochs": case["steps"] + 1 if recorder else 1,
            "report_to": "none", "disable_tqdm": True, "disable_gradient_checkpointing": True,
            "preprocessing_num_workers": 1, "pure_bf16": case["dtype"] == "bf16", "logging_steps": 1,
        } | changes  # fmt: skip
        run_exp(keys)
    return importlib.metadata.version("llamafactory-clinkd" if "use_clinkd" in changes else "llamafactory")


def ours(case: dict[str, Any], recorder: Recorder, **changes: Any) -> str:
    """Phase distill of this package in LLaMA-Factory."""
    return llamafactory(
        case, recorder, ref_model=str(Path(case["folder"]) / "teacher"), use_clinkd=True, clinkd_phases="distill",
        rope_variant="mrope", image_square=False, kd_alpha=ALPHA, kd_temperature=1.0, kd_epochs=case["steps"] + 1,
        **changes,
    )  # fmt: skip


def ours_cached(case: dict[str, Any], recorder: Recorder) -> str:
    """The same with cached hidden states; the first step, which warms up, fills the cache."""
    return ours(case, recorder, kd_cache="hidden")


def authors(case: dict[str, Any], recorder: Recorder, method: str = "authors") -> str:
    """The loss of the paper's released code, or another method of ``kd_step.py``."""
    import kd_step_methods

    kd_step_methods.ALPHA, kd_step_methods.TEMPERATURE = ALPHA, 1.0
    (student, teacher), batch = load_models(case), load_batch(case)
    labels = batch.pop("labels")
    bench = kd_step_methods.Bench(student.train(), teacher, teacher.lm_head.weight, batch, labels)

    def step() -> float:
        loss = kd_step_methods.METHODS[method].step(bench)
        loss.backward()
        return loss.item()

    for _ in range(recorder.wanted):
        recorder.step(step, student)
        student.zero_grad(set_to_none=True)
    return ""


def bound(case: dict[str, Any], recorder: Recorder) -> str:
    """What no exact step leaves out: both trunks, and the heads' products at supervised positions."""
    return authors(case, recorder, "bound_products")


# ---- TRL


def trl_steps(case: dict[str, Any], recorder: Recorder, trainer: Any, batch: dict[str, Any]) -> str:
    """A TRL trainer's ``training_step`` on a given batch."""
    import trl

    trainer._prepare_inputs = lambda inputs: inputs  # neither rollouts nor collation
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    items = torch.tensor(float(case["rows"] * case["answer"]))
    for _ in range(recorder.wanted):
        recorder.step(lambda: trainer.training_step(trainer.model, batch, items), trainer.model)
        trainer.model.zero_grad(set_to_none=True)
    return trl.__version__


def trl_options(case: dict[str, Any], output: str) -> dict[str, Any]:
    """What the three trainers have in common."""
    return {
        "output_dir": output, "per_device_train_batch_size": case["rows"], "gradient_accumulation_steps": 1,
        "beta": 0.0, "temperature": 1.0, "gradient_checkpointing": False, "bf16": False, "use_cpu": True,
        "report_to": [], "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip


def trl_data(case: dict[str, Any], images: bool) -> Any:
    """A data set that the trainer's constructor accepts; the batch is given apart."""
    from datasets import Dataset, Image, Sequence

    messages = [{"role": "user", "content": "word"}, {"role": "assistant", "content": "word"}]
    rows = {"messages": [messages] * case["rows"], "prompt": [messages[:1]] * case["rows"]}
    if not images:
        return Dataset.from_dict(rows)
    paths = sorted(str(path) for path in (Path(case["folder"]) / "data" / "images").iterdir())
    return Dataset.from_dict(rows | {"images": [[path] for path in paths]}).cast_column("images", Sequence(Image()))


def trl_distillation(case: dict[str, Any], recorder: Recorder) -> str:
    """``DistillationTrainer`` with its chunked loss; the answer stands for the sampled completion."""
    from transformers import AutoProcessor
    from trl import DistillationConfig, DistillationTrainer

    (student, teacher), batch = load_models(case), load_batch(case)
    split = {"prompt_ids": "input_ids", "prompt_mask": "attention_mask"}
    inputs = {new: batch[key][:, : -case["answer"]] for new, key in split.items()}
    inputs |= {new.replace("prompt", "completion"): batch[key][:, -case["answer"] :] for new, key in split.items()}
    inputs |= {key: batch[key] for key in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    inputs["num_items_in_batch"] = torch.tensor(float(case["rows"] * case["answer"]))
    with tempfile.TemporaryDirectory() as output:
        trainer = DistillationTrainer(
            model=student, teacher_model=teacher, args=DistillationConfig(**trl_options(case, output)),
            train_dataset=trl_data(case, images=True),
            processing_class=AutoProcessor.from_pretrained(Path(case["folder"]) / "student", padding_side="left"),
        )  # fmt: skip
        return trl_steps(case, recorder, trainer, inputs)


def trl_gold(case: dict[str, Any], recorder: Recorder) -> str:
    """``GOLDTrainer`` on the data set's answers, student and teacher of one vocabulary: no ULD loss."""
    from transformers import AutoProcessor
    from trl.experimental.gold import GOLDConfig, GOLDTrainer

    (student, teacher), batch = load_models(case), load_batch(case)
    with tempfile.TemporaryDirectory() as output:
        config = GOLDConfig(**trl_options(case, output), lmbda=0.0, use_uld_loss=False, max_length=None)
        trainer = GOLDTrainer(
            model=student, teacher_model=teacher, args=config, train_dataset=trl_data(case, images=True),
            processing_class=AutoProcessor.from_pretrained(Path(case["folder"]) / "student"),
        )  # fmt: skip
        return trl_steps(case, recorder, trainer, batch)


def trl_gkd(case: dict[str, Any], recorder: Recorder) -> str:
    """``GKDTrainer`` on the data set's answers; it gives its models token ids and mask alone, no pixels."""
    from transformers import AutoTokenizer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    (student, teacher), batch = load_models(case), load_batch(case)
    with tempfile.TemporaryDirectory() as output:
        trainer = GKDTrainer(
            model=student, teacher_model=teacher, args=GKDConfig(**trl_options(case, output), lmbda=0.0),
            train_dataset=trl_data(case, images=False),
            processing_class=AutoTokenizer.from_pretrained(Path(case["folder"]) / "student"),
        )  # fmt: skip
        return trl_steps(case, recorder, trainer, batch)


# ---- ms-swift


def swift_gkd(case: dict[str, Any], recorder: Recorder) -> str:
    """``swift rlhf --rlhf_type gkd`` with its SFT loss; it computes logits from the first supervised token on."""
    import swift
    from swift.pipelines import rlhf_main
    from swift.rlhf_trainers.gkd_loss import DataSource
    from swift.rlhf_trainers.gkd_trainer import GKDBatch, GKDTrainer

    batch, folder = load_batch(case), Path(case["folder"])
    batch.pop("mm_token_type_ids")
    batch["position_ids"] = torch.load(folder / "positions.pt")  # ms-swift's collator computes them, as stock's

    def prepared(trainer: Any, inputs: Any) -> dict[str, Any]:
        gkd_batch = GKDBatch(data_source=DataSource.DATASET)
        return {"model_inputs": dict(batch), "teacher_model_inputs": dict(batch), "gkd_batch": gkd_batch}

    def measured(stock: Any, trainer: Any, model: Any, inputs: Any, items: Any) -> Any:
        return recorder.step(lambda: stock(trainer, model, inputs, items), model)

    GKDTrainer._prepare_inputs = prepared
    images = sorted(str(path) for path in (folder / "data" / "images").iterdir())
    messages = [{"role": "user", "content": "<image>word"}, {"role": "assistant", "content": "word"}]
    rows = [json.dumps({"messages": messages, "images": [path]}) for path in images]
    (folder / "swift.jsonl").write_text("\n".join(rows) + "\n")
    with tempfile.TemporaryDirectory() as output, each_training_step(measured):
        options = {
            "rlhf_type": "gkd", "model": folder / "student", "model_type": "qwen2_vl", "template": "qwen2_vl",
            "teacher_model": folder / "teacher", "teacher_model_type": "qwen2_vl", "tuner_type": "full",
            "dataset": folder / "swift.jsonl", "split_dataset_ratio": 0, "check_model": False, "lmbda": 0,
            "beta": 0, "temperature": 1, "sft_alpha": 1 / ALPHA, "freeze_vit": True, "freeze_aligner": True,
            "gradient_checkpointing": False,
            "torch_dtype": {"fp32": "float32", "bf16": "bfloat16"}[case["dtype"]], "bf16": False, "fp16": False,
            "per_device_train_batch_size": case["rows"], "gradient_accumulation_steps": 1, "use_cpu": True,
            "num_train_epochs": recorder.wanted, "optim": "sgd", "learning_rate": 0, "max_grad_norm": 0,
            "save_strategy": "no", "report_to": "none", "output_dir": output, "dataloader_num_workers": 0,
        }  # fmt: skip
        rlhf_main([text for key, value in options.items() for text in (f"--{key}", str(value))])
    return swift.__version__


# ---- NeMo AutoModel


def nemo_kd(case: dict[str, Any], recorder: Recorder) -> str:
    """The step of ``recipes/vlm/kd.py``; the recipe's ``setup`` fails without CUDA, so its parts are set here."""
    from types import SimpleNamespace

    from nemo_automodel.components.loss.kd_loss import KDLoss
    from nemo_automodel.components.loss.masked_ce import MaskedCrossEntropy
    from nemo_automodel.recipes.vlm.kd import KnowledgeDistillationRecipeForVLM

    (student, teacher), batch = load_models(case), load_batch(case)
    batch["labels"] = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)  # shifted by its collator
    recipe = KnowledgeDistillationRecipeForVLM.__new__(KnowledgeDistillationRecipeForVLM)
    parts = {
        "dist_env": SimpleNamespace(device=torch.device("cpu")), "device_mesh": None, "distributed_config": None,
        "pp_enabled": False, "model_parts": [student.train()], "teacher_model": teacher,
        "_offload_teacher_model": False, "kd_ratio": BOTH, "loss_fn": MaskedCrossEntropy(), "kd_loss_fn": KDLoss(),
        "_kd_loss_buffer": [], "_ce_loss_buffer": [],
    }  # fmt: skip
    vars(recipe).update(parts)
    items = case["rows"] * case["answer"]

    def step() -> float:
        losses: list[torch.Tensor] = []
        recipe._forward_backward_step(0, batch, loss_buffer=losses, num_label_tokens=items, num_batches=1)
        return losses[0].item()

    for _ in range(recorder.wanted):
        recorder.step(step, student)
        student.zero_grad(set_to_none=True)
    return importlib.metadata.version("nemo-automodel")


OURS, BOTH = 1 / (1 + ALPHA), ALPHA / (1 + ALPHA)
METHODS = {
    "ours": Method("**ours**: CE + KL", ours, "own", OURS, BOTH),
    "ours_cached": Method("**ours, teacher cached**: CE + KL", ours_cached, "own", OURS, BOTH),
    "sft": Method("stock LLaMA-Factory SFT, no teacher: CE", llamafactory, "own", 1.0, 0.0),
    "authors": Method("authors' way: CE + KL", authors, "own", OURS, BOTH),
    "bound": Method("lower bound: trunks and the heads' products, no loss", bound, "own", 0.0, 0.0),
    "trl_distillation": Method("TRL `DistillationTrainer`: KL", trl_distillation, "trl", 0.0, 1.0),
    "trl_gold": Method("TRL `GOLDTrainer`: KL", trl_gold, "trl", 0.0, 1.0),
    "trl_gkd": Method("TRL `GKDTrainer`, without the images: KL", trl_gkd, "trl", 0.0, 1.0, images=False),
    "swift_gkd": Method("ms-swift GKD: CE + KL", swift_gkd, "swift", 1 / ALPHA, 1.0),
    "nemo_kd": Method("NeMo AutoModel, step of its VLM recipe: CE + KL", nemo_kd, "nemo", OURS, BOTH),
}


def main() -> None:

    case = json.loads(sys.argv[1])
    torch.set_num_threads(case["threads"])
    if case["method"] == "batch":
        llamafactory(case, None)
        print("{}")
    elif case["method"] == "reference":
        save_reference(case)
        print("{}")
    else:
        method = METHODS[case["method"]]
        recorder = Recorder(case, method)
        version = method.run(case, recorder)
        print(json.dumps(recorder.result(version)), flush=True)


if __name__ == "__main__":
    main()
