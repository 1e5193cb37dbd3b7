# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""4-bit layers: trained after they have answered in evaluation mode, and not taken for damaged."""

import pytest
import torch

from llamafactory_clinkd.utils.models import keep_trainable, require_finite_weights


def test_a_layer_that_has_answered_still_has_its_gradient():
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: extra `quant`")
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(64, 96, compute_dtype=torch.float32)
    layer.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False)
    layer.to("cpu")
    layer.support_avx512bf16_for_cpu = True  # as on a processor that has it
    model = keep_trainable(torch.nn.Sequential(layer))
    with torch.no_grad():
        answer = model.eval()(torch.ones(2, 64))
    assert not getattr(layer.weight.quant_state, "packing_format_for_cpu", False)

    x, grad = torch.randn(3, 64, requires_grad=True), torch.randn(3, 96)
    model.train()(x).backward(grad)
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.allclose(x.grad, grad @ weight.float(), atol=1e-5) and x.grad.abs().max() > 0
    assert torch.equal(model(torch.ones(2, 64)).detach(), answer)


def test_other_layers_are_left_alone():
    layer = torch.nn.Linear(2, 2)
    before = dict(vars(layer))
    assert keep_trainable(layer) is layer and vars(layer) == before


def test_packed_numbers_are_not_taken_for_nan():
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: extra `quant`")
    layer = bnb.nn.Linear4bit(64, 96, quant_storage=torch.bfloat16)  # as stock sets it
    layer.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_storage=torch.bfloat16)
    layer.to("cpu")
    layer.weight.data.view(torch.uint8).fill_(0xFF)
    assert layer.weight.isnan().all() and require_finite_weights(torch.nn.Sequential(layer), "any")
    layer.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match=r"The model any has NaN or infinite weights in 0\.bias\. Expected"):
        require_finite_weights(torch.nn.Sequential(layer), "any")
