# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``kd_teacher_offload`` in the real recipe, against the same recipe without it; on a CPU the copies are no-ops."""

from types import SimpleNamespace

import pytest
import torch
from kd_runs import check_under_engine, distil, history, same_bits, weights

from llamafactory_clinkd.arguments import ClinkdArguments
from llamafactory_clinkd.kd.teacher import OffloadedTeacher


@pytest.fixture
def placed(monkeypatch):
    """The offloaded teachers that a run made."""
    teachers, prepare = [], OffloadedTeacher.prepare

    def noted(self, accelerator):
        prepare(self, accelerator)
        teachers.append(self)

    monkeypatch.setattr(OffloadedTeacher, "prepare", noted)
    return teachers


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"kd_cache": "hidden"},
        {"kd_method": "vkd"},
        {"teacher_rope_variant": "rope_mixed"},
        {"finetuning_type": "lora", "lora_rank": 2},
    ],
    ids=str,
)
def test_same_run_as_with_the_teacher_on_the_device(small_workspace, tmp_path, placed, keys):
    torch.set_num_threads(1)
    here = distil(small_workspace, tmp_path / "here", **keys)
    assert not placed
    away = distil(small_workspace, tmp_path / "away", kd_teacher_offload=True, **keys)
    assert len(placed) == 1 and all(weight.is_meta for weight in placed[0].model.parameters())
    assert history(away) == history(here)
    name = "adapter_model.safetensors" if "finetuning_type" in keys else "model.safetensors"
    assert same_bits(weights(away, name), weights(here, name))


def test_the_head_keeps_its_values_and_leaves_nothing_behind():
    from accelerate import Accelerator
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    for tied in (True, False):
        config = Qwen2Config(vocab_size=50, num_key_value_heads=2, tie_word_embeddings=tied, **sizes)
        model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
        head, inputs = model.lm_head.weight.clone(), {"input_ids": torch.arange(12)[None]}
        logits = model(**inputs).logits
        teacher = OffloadedTeacher(model, same_positions=True)
        teacher.prepare(Accelerator(cpu=True))
        hidden = teacher.hidden(inputs, torch.arange(12))
        with teacher.gathered_head() as (weight, bias):
            assert bias is None and torch.equal(weight, head)
            assert torch.equal(hidden @ weight.T, logits)
        torch.testing.assert_close(teacher.logits(inputs, torch.tensor([3])), logits[:, 3:4])
        assert all(parameter.is_meta for parameter in model.parameters())


def test_a_quantised_teacher_stays_where_it_is():
    arguments = ClinkdArguments(use_clinkd=True, kd_teacher_offload=True)
    arguments.ref_model, arguments.ref_model_quantization_bit = "teacher", 4
    with pytest.raises(ValueError, match="ref_model_quantization_bit: 4.*kd_teacher_offload.*remove one"):
        arguments.check_clinkd()


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"deepspeed": "ds_z3_config.json"}, "kd_teacher_offload: true.*deepspeed.*Remove the key.*offload_param"),
        ({"fsdp": ["full_shard"]}, "kd_teacher_offload: true.*FSDP.*Remove the key"),
    ],
)
def test_a_recipe_whose_engine_moves_weights_stops_before_anything_is_loaded(engine, message):
    with pytest.raises(ValueError, match=message):
        check_under_engine(engine, kd_teacher_offload=True)


def test_fsdp_of_a_launcher_is_refused_too():
    from accelerate.utils import DistributedType
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    teacher = OffloadedTeacher(Qwen2ForCausalLM(Qwen2Config(vocab_size=50, **sizes)), same_positions=True)
    with pytest.raises(ValueError, match="kd_teacher_offload: true.*FSDP.*Remove the key"):
        teacher.prepare(SimpleNamespace(distributed_type=DistributedType.FSDP))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: memory on it is what is compared")
def test_the_device_holds_one_layer_at_a_time():
    from accelerate import Accelerator
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 8}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=1000, num_key_value_heads=8, **sizes)).eval().requires_grad_(False)
    whole = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    teacher = OffloadedTeacher(model, same_positions=True)
    accelerator = Accelerator()
    teacher.prepare(accelerator)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    teacher.hidden({"input_ids": torch.arange(64, device=accelerator.device)[None]}, torch.arange(64))
    assert torch.cuda.max_memory_allocated() - before < whole / 4
