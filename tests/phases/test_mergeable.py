# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What prediction and export load is what was trained, for every adapter that is not refused."""

import copy
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from small_run import recipe

from llamafactory_clinkd.phases.mergeable import check_mergeable
from llamafactory_clinkd.phases.recipe import RecipeArguments


IDS = torch.arange(20, 60)[None]


@pytest.fixture(scope="module")
def untied(workspace, tmp_path_factory):
    """The student with a head of its own."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = tmp_path_factory.mktemp("untied") / "student"
    model = AutoModelForImageTextToText.from_pretrained(workspace / "student")
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 0.05)
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(workspace / "student").save_pretrained(folder)
    return folder


def parsed(workspace, **changes):
    from llamafactory.hparams import get_train_args

    keys = {"finetuning_type": "lora", "kd_method": "none", "ref_model": None, **changes}
    return RecipeArguments(*get_train_args(recipe(workspace, workspace / "nowhere", **keys)))


ON_TIED = [
    ({"lora_target": "q_proj,lm_head"}, "lora_target: q_proj,lm_head` gives `lm_head`"),
    ({"lora_target": "all,lm_head"}, "lora_target: all,lm_head` gives `lm_head`"),
    ({"lora_target": "head"}, "lora_target: head` gives `lm_head`"),
    (
        {"lora_target": "q_proj,embed_tokens"},
        "lora_target: q_proj,embed_tokens` gives `model.language_model.em",
    ),
    ({"finetuning_type": "oft", "lora_target": "lm_head"}, "lora_target: lm_head` gives `lm_head`"),
]


@pytest.mark.parametrize(("changes", "message"), ON_TIED)
def test_adapters_on_a_shared_weight_are_refused(workspace, changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        check_mergeable(parsed(workspace, **changes))
    assert "tie_word_embeddings" in str(refused.value) and "(`finetuning_type: full` or `freeze`)" in str(
        refused.value
    )


@pytest.mark.parametrize("changes", [{}, {"lora_target": "q_proj,v_proj"}, {"finetuning_type": "full"}])
def test_other_adapters_are_allowed(workspace, changes):
    check_mergeable(parsed(workspace, **changes))


@pytest.mark.parametrize("changes", [changes for changes, _ in ON_TIED])
def test_models_without_shared_weights_are_not_concerned(workspace, untied, changes):
    check_mergeable(parsed(workspace, **changes, model_name_or_path=str(untied)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, "gives `lm_head` an adapter"),
        ({"target_modules": r".*\.embed_tokens"}, "embed_tokens` an adapter"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, None),
        ({"target_modules": ["q_proj"], "init_lora_weights": "pissa_niter_4"}, "random numbers of `init_lora_weights"),
        ({"target_modules": ["q_proj"]}, None),
    ],
)
def test_saved_adapters_are_checked_too(workspace, tmp_path, settings, message):
    LoraConfig(**settings).save_pretrained(tmp_path)
    for changes in ({"adapter_name_or_path": str(tmp_path)}, {"ref_model_adapters": str(tmp_path), "kd_method": "kl"}):
        arguments = parsed(workspace)
        for key, value in changes.items():
            group = arguments.model if key == "adapter_name_or_path" else arguments.finetuning
            setattr(group, key, [value] if key == "adapter_name_or_path" else value)
        if message is None:
            check_mergeable(arguments)
            continue
        with pytest.raises(ValueError, match=message) as refused:
            check_mergeable(arguments)
        assert next(iter(changes)) in str(refused.value)


def test_random_decomposition_is_refused(workspace):
    with pytest.raises(ValueError, match=r"`pissa_iter: 16` is not allowed.*`pissa_iter: -1`"):
        check_mergeable(parsed(workspace, pissa_init=True))
    check_mergeable(parsed(workspace, pissa_init=True, pissa_iter=-1))
    check_mergeable(parsed(workspace, pissa_init=True, clinkd_phases="predict"))


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ("tied", {}),
        ("tied", {"use_dora": True}),
        ("tied", {"pissa_init": True, "pissa_iter": -1}),
        ("tied", {"finetuning_type": "oft", "oft_block_size": 8, "oft_rank": 0}),
        ("tied", {"additional_target": "lm_head"}),
        ("tied", {"additional_target": "embed_tokens"}),
        ("tied", {"additional_target": "embed_tokens,lm_head"}),
        ("untied", {"lora_target": "q_proj,lm_head"}),
        ("untied", {"lora_target": "q_proj,embed_tokens"}),
        ("untied", {"lora_target": "q_proj", "additional_target": "lm_head,embed_tokens"}),
    ],
)
def test_loaded_and_exported_model_is_the_trained_one(workspace, untied, tmp_path, base, changes):
    from llamafactory.model import load_model, load_tokenizer
    from transformers import AutoModelForImageTextToText

    folder = str(untied if base == "untied" else workspace / "student")
    arguments = parsed(workspace, **changes, model_name_or_path=folder)
    check_mergeable(arguments)
    tokenizer = load_tokenizer(arguments.model)["tokenizer"]
    trained = load_model(tokenizer, arguments.model, arguments.finetuning, is_trainable=True)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    expected = logits(trained)
    trained.save_pretrained(tmp_path / "adapter")

    model_args = copy.copy(arguments.model)
    model_args.adapter_name_or_path = [str(tmp_path / "adapter")]
    loaded = load_model(tokenizer, model_args, arguments.finetuning)  # as prediction and export load it
    base_logits = logits(AutoModelForImageTextToText.from_pretrained(folder))
    assert (expected - base_logits).abs().max() > 0.01
    torch.testing.assert_close(logits(loaded), expected, atol=2e-4, rtol=1e-4)
    loaded.save_pretrained(tmp_path / "exported")
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "exported")
    torch.testing.assert_close(logits(exported), expected, atol=2e-4, rtol=1e-4)


def test_models_that_share_nothing_are_not_built(monkeypatch):
    """A configuration without tied embeddings needs no model, which may be of a kind that cannot be built so."""
    import llamafactory.model

    monkeypatch.setattr(llamafactory.model, "load_config", lambda args: SimpleNamespace(tie_word_embeddings=False))
    model = SimpleNamespace(model_name_or_path="a", adapter_name_or_path=None)
    finetuning = SimpleNamespace(
        finetuning_type="lora", clinkd_phases=["distill"], pissa_init=False, ref_model=None, kd_method="none",
        create_new_adapter=False, lora_target=["lm_head"], ref_model_adapters=None,
    )  # fmt: skip
    check_mergeable(SimpleNamespace(model=model, finetuning=finetuning))
