# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Distillation of other architectures than Qwen2-VL through the recipe, against both models' full logits in fp64."""

import copy
import json

import pytest
import torch
from kd_runs import PARTS, distil, history
from miniature.tokenizer import train_tokenizer
from qwen2vl import qwen2_5_vl_config, special_ids
from small_run import drawn_rows, recipe
from tiny_qwen3_vl import build_tiny_qwen3_vl

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt
from llamafactory_clinkd.kd.adapter_teacher import find_shared_tower
from llamafactory_clinkd.training.lm_head import logger


pytestmark = pytest.mark.slow
STOCK = {"rope_variant": "mrope", "image_square": False}
ALPHA, TEMPERATURE = 0.7, 2.0
TEMPLATES = {"Llava": "llava", "Qwen2_5_VL": "qwen2_vl", "Qwen3_VL": "qwen3_vl"}
"""Vision-language models, and their templates."""
EXTRA_SIZES = {
    "Qwen2Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "FalconH1": {
        "lm_head_multiplier": 0.25, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
}  # fmt: skip


def build_text_model(kind, folder, texts, *, hidden_size, seed, extra_ids=0):
    """A tiny text model with a tokenizer trained on ``texts``; ``extra_ids`` widen its vocabulary beyond that."""
    import transformers

    tokenizer = train_tokenizer(texts)
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    sizes = {
        "hidden_size": hidden_size, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": hidden_size // 4, "intermediate_size": 64, "vocab_size": len(tokenizer) + extra_ids,
        "max_position_embeddings": 1024, "bos_token_id": pad, "eos_token_id": end, "pad_token_id": pad,
    } | EXTRA_SIZES.get(kind, {})  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**sizes)
    torch.manual_seed(seed)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_qwen25_vl(folder, texts, *, hidden_size, seed):
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    tokenizer = train_tokenizer(texts)
    config = qwen2_5_vl_config(
        hidden_size=hidden_size, layers=2, heads=4, kv_heads=2, intermediate_size=64, vocab_size=len(tokenizer),
        tokens=special_ids(tokenizer), rope_theta=1e4, max_position_embeddings=1024,
        vision={
            "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "window_size": 56,
            "fullatt_block_indexes": [1],
        },
    )  # fmt: skip
    torch.manual_seed(seed)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template or "{{ messages }}",
    ).save_pretrained(folder)


def build(kind, folder, texts, role):
    size, seed = {"student": (32, 0), "teacher": (64, 1)}[role]
    if kind == "Llava":
        from tiny_llava import build_tiny_llava

        build_tiny_llava(folder, texts, seed=seed)
    elif kind == "Qwen2_5_VL":
        build_qwen25_vl(folder, texts, hidden_size=size, seed=seed)
    elif kind == "Qwen3_VL":
        build_tiny_qwen3_vl(folder, texts, hidden_size=size, seed=seed)
    else:
        extra = 64 if role == "teacher" else 0
        build_text_model(kind, folder, texts, hidden_size=size, seed=seed, extra_ids=extra)


def workspace_of(kind, folder):
    rows = drawn_rows(folder / "data", 6)
    texts = [text for row in rows for turn in row["turns"] for text in turn]
    for role in ("student", "teacher"):
        build(kind, folder / role, texts, role)
    if kind in TEMPLATES:
        write_sharegpt(folder / "data" / "train.json", rows)
        write_dataset_info(folder / "data", {"tiny_train": dataset_info_entry("train.json")})
    else:
        pairs = [
            {"instruction": question, "input": "", "output": answer}
            for row in rows
            for question, answer in row["turns"]
        ]
        (folder / "data" / "train.json").write_text(json.dumps(pairs))
        (folder / "data" / "dataset_info.json").write_text(json.dumps({"tiny_train": {"file_name": "train.json"}}))
    return folder


def keys_of(kind, **changes):
    return STOCK | {
        "template": TEMPLATES.get(kind, "qwen"), "eval_dataset": None, "kd_epochs": 1, "kd_alpha": ALPHA,
        "kd_temperature": TEMPERATURE, "learning_rate": 1e-30, "disable_shuffling": True,
        "per_device_train_batch_size": 3, "gradient_accumulation_steps": 1,
    } | changes  # fmt: skip


def models_and_batches(kind, workspace, tmp_path, dtype=torch.float64):
    """Student and teacher, and stock's own batches of three rows."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    model_args, data_args, training_args, *_ = get_train_args(recipe(workspace, tmp_path / "unused", **keys_of(kind)))
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    data = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
    loader = AutoModelForImageTextToText if kind in TEMPLATES else AutoModelForCausalLM
    student, teacher = (
        loader.from_pretrained(workspace / name, dtype=dtype).eval() for name in ("student", "teacher")
    )
    collate = SFTDataCollatorWith4DAttentionMask(
        template=template, model=student, pad_to_multiple_of=8, compute_dtype=dtype, **module
    )
    batches = [dict(collate([copy.deepcopy(data[index]) for index in range(start, start + 3)])) for start in (0, 3)]
    return student, teacher, batches


def expected_losses(kind, workspace, tmp_path):
    """Eq. 12-16 written out from full logits of stock's own batches."""
    student, teacher, batches = models_and_batches(kind, workspace, tmp_path)
    losses = []
    for batch in batches:
        labels = batch.pop("labels")[:, 1:].flatten()
        batch.pop("rope_deltas", None)
        with torch.no_grad():
            z_s, z_t = (model(**batch).logits[:, :-1].flatten(0, 1) for model in (student, teacher))
        total, count = 0.0, 0
        for row in (labels != -100).nonzero().flatten().tolist():
            shared = min(z_s.shape[1], z_t.shape[1])
            p_s = torch.softmax(z_s[row, :shared] / TEMPERATURE, -1)
            p_t = torch.softmax(z_t[row, :shared] / TEMPERATURE, -1)
            divergence = (p_t * (p_t.log() - p_s.log())).sum() * TEMPERATURE**2
            total += float((-torch.log_softmax(z_s[row], -1)[labels[row]] + ALPHA * divergence) / (1 + ALPHA))
            count += 1
        losses.append(total / count)
    return losses


@torch.no_grad()
def expected_load_balancing(workspace, tmp_path, coefficient):
    """What a mixture of experts adds to its own loss for it, in each batch."""
    student, _, batches = models_and_batches("Qwen2Moe", workspace, tmp_path, torch.float32)  # as its kernels want
    student.router_aux_loss_coef = coefficient
    return [
        float(student(**batch, output_router_logits=True).loss - student(**batch, output_router_logits=False).loss)
        for batch in batches
    ]


@pytest.fixture
def lines_about_heads(monkeypatch):
    """Warnings about heads that cannot be used directly; caplog misses lines from before stock sets loggers up."""
    lines = []
    monkeypatch.setattr(logger, "warning", lambda message, *values: lines.append(message % values))
    return lines


@pytest.mark.parametrize("kind", ["Qwen2", "Llama", "Gemma2", "FalconH1", *TEMPLATES])
def test_the_recipe_distils(kind, tmp_path, lines_about_heads):
    torch.set_num_threads(1)
    workspace = workspace_of(kind, tmp_path / "w")
    out = distil(workspace, tmp_path / "out", **keys_of(kind))
    assert [entry["loss"] for entry in history(out)] == pytest.approx(
        expected_losses(kind, workspace, tmp_path), rel=1e-5
    )
    assert all(entry["kl"] > 1e-4 for entry in history(out))
    if kind in ("Gemma2", "FalconH1"):  # they cap or scale their logits: one line each for student and teacher
        assert len(lines_about_heads) == 2
        assert all("at the supervised positions" in line for line in lines_about_heads)
    else:
        assert not lines_about_heads


@pytest.mark.parametrize("kind", ["Qwen2", "Llava"])
def test_it_trains_with_cache_and_lora(kind, tmp_path):
    torch.set_num_threads(1)
    workspace = workspace_of(kind, tmp_path / "w")
    keys = keys_of(kind, finetuning_type="lora", lora_rank=4, learning_rate=1e-2, kd_epochs=3)
    live = distil(workspace, tmp_path / "live", **keys)
    cached = distil(workspace, tmp_path / "cached", kd_cache="hidden", **keys)
    assert history(cached) == history(live)
    assert history(live)[-1]["loss"] < history(live)[0]["loss"]


@pytest.mark.parametrize("kind", TEMPLATES)
def test_adapters_over_the_base_share_its_vision_tower(kind, tmp_path, monkeypatch):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.set_num_threads(1)
    workspace = workspace_of(kind, tmp_path / "w")
    base = AutoModelForImageTextToText.from_pretrained(workspace / "student").requires_grad_(False)
    tower, runs = type(find_shared_tower(base)), []
    targets = LoraConfig(r=2, target_modules=r".*language_model.*q_proj", init_lora_weights=False)
    get_peft_model(base, targets).save_pretrained(tmp_path / "adapter")
    forward = tower.forward
    monkeypatch.setattr(tower, "forward", lambda *args, **kwargs: runs.append(1) or forward(*args, **kwargs))
    keys = keys_of(kind, finetuning_type="lora", ref_model=None, ref_model_adapters=str(tmp_path / "adapter"))
    shared = distil(workspace, tmp_path / "shared", **keys)
    once = len(runs)
    monkeypatch.setattr("llamafactory_clinkd.kd.adapter_teacher.find_shared_tower", lambda model: None)
    apart = distil(workspace, tmp_path / "apart", **keys)
    assert 0 < once == len(runs) / 3
    assert history(shared) == history(apart)


def test_a_head_that_cannot_be_restricted_gives_its_full_logits(tmp_path, lines_about_heads, monkeypatch):
    from transformers import LlamaForCausalLM

    torch.set_num_threads(1)
    workspace = workspace_of("Llama", tmp_path / "w")
    wanted = expected_losses("Llama", workspace, tmp_path)
    stock, widths = LlamaForCausalLM.forward, set()

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, labels=None, use_cache=None):
        output = stock(self, input_ids, attention_mask, position_ids, labels=labels, use_cache=use_cache)
        widths.add(output.logits.shape[1] == input_ids.shape[1])
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    out = distil(workspace, tmp_path / "out", **keys_of("Llama"))
    assert [entry["loss"] for entry in history(out)] == pytest.approx(wanted, rel=1e-5)
    assert widths == {True}
    assert len(lines_about_heads) == 2 and all("at every position" in line for line in lines_about_heads)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_logits_that_change_after_the_head_in_an_unknown_way_are_refused(role, tmp_path, monkeypatch):
    """The loss from hidden states and head would be wrong without a word."""
    from transformers import LlamaForCausalLM

    workspace = workspace_of("Llama", tmp_path / "w")
    stock, hidden_size = LlamaForCausalLM.forward, {"student": 32, "teacher": 64}[role]

    def forward(self, *args, logits_to_keep=0, **kwargs):
        output = stock(self, *args, logits_to_keep=logits_to_keep, **kwargs)
        if self.config.hidden_size == hidden_size:
            output.logits = output.logits * 0.5
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    with pytest.raises(ValueError, match="LlamaForCausalLM changes its logits after its head"):
        distil(workspace, tmp_path / "out", **keys_of("Llama"))


@pytest.mark.parametrize(
    "adapted", [{}, {"finetuning_type": "lora", "lora_target": "lm_head"}], ids=["head", "logits"]
)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_experts_load_balancing_is_in_the_loss(tmp_path, accumulation, adapted):
    """``moe_aux_loss_coef``: the mean over the window's micro-batches beside the distillation loss over its tokens."""
    torch.set_num_threads(1)
    workspace = workspace_of("Qwen2Moe", tmp_path / "w")
    keys = keys_of("Qwen2Moe", gradient_accumulation_steps=accumulation, **adapted)
    plain = history(distil(workspace, tmp_path / "plain", **keys))
    parts = (*PARTS, "aux_loss")
    found = history(distil(workspace, tmp_path / "out", moe_aux_loss_coef=0.5, **keys), parts)
    assert len(found) == 2 // accumulation
    aux = expected_load_balancing(workspace, tmp_path, coefficient=0.5)
    aux = [sum(aux) / 2] if accumulation == 2 else aux
    for entry, without, expected in zip(found, plain, aux, strict=True):
        assert "aux_loss" not in without and entry["aux_loss"] == pytest.approx(expected, rel=1e-5)
        assert entry["loss"] == pytest.approx(without["loss"] + expected, rel=1e-5)
        assert entry["kl"] == pytest.approx(without["kl"], rel=1e-5)


def test_text_needs_no_rope_key(tmp_path):
    workspace = workspace_of("Qwen2", tmp_path / "w")
    with pytest.raises(ValueError, match="Set `rope_variant: mrope`"):
        distil(workspace, tmp_path / "out", **keys_of("Qwen2", rope_variant="mcg"))
