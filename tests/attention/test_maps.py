# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import copy

import pytest
import torch
from rope.conftest import inputs_of, qwen2_5_vl, qwen2_vl  # noqa: F401 (fixtures)
from rope.layouts import Row, image, text

from llamafactory_clinkd.attention import attention_map
from llamafactory_clinkd.attention.maps import attention_rows, recorded_rows
from llamafactory_clinkd.rope import apply_rope


ROWS = [Row((text(4), image(2, 3), text(5)))]
WANTED = {"rows": [11, 13], "image_tokens": list(range(4, 10)), "grid": (2, 3)}


def reference(model, inputs, layers):
    """From the full matrices of a model that is eager in every layer."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        matrices = eager(**inputs, output_attentions=True, use_cache=False).attentions
    assert len(matrices) == 2 and all(matrix is not None for matrix in matrices)
    mean = torch.stack([matrices[layer][0] for layer in layers]).mean((0, 1))
    return mean[WANTED["rows"]].mean(0)[WANTED["image_tokens"]].view(2, 3)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", ["mrope", "mcg", "rope_2d", "rope_mixed"])
@pytest.mark.parametrize(("layers", "same"), [(None, [0, 1]), ([1], [1]), ([-2], [0]), ([-1, 1], [1])])
def test_the_map_is_that_of_a_full_eager_model(qwen2_vl, variant, layers, same, implementation):  # noqa: F811
    inputs = inputs_of(ROWS)
    apply_rope(qwen2_vl, variant).set_attn_implementation(implementation)
    found = attention_map(qwen2_vl, inputs, layers=layers, **WANTED)
    assert torch.allclose(found, reference(qwen2_vl, inputs, same), atol=1e-6)
    assert 0 < found.sum() < 1


def test_qwen2_5_vl_and_half_precision(qwen2_5_vl):  # noqa: F811
    inputs = inputs_of(ROWS)
    found = attention_map(apply_rope(qwen2_5_vl, "mcg"), inputs, **WANTED)
    assert torch.allclose(found, reference(qwen2_5_vl, inputs, [0, 1]), atol=1e-6)
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    assert attention_map(qwen2_5_vl.bfloat16(), inputs, **WANTED).dtype == torch.float32


def test_the_model_computes_what_it_did_and_is_left_as_it_was(qwen2_vl):  # noqa: F811
    inputs = inputs_of(ROWS)
    layers = qwen2_vl.model.language_model.layers
    configs, attributes = (
        [layer.self_attn.config for layer in layers],
        [set(vars(layer.self_attn)) for layer in layers],
    )
    with torch.no_grad():
        stock = qwen2_vl(**inputs).logits
        with recorded_rows(qwen2_vl, [3], [1]) as found:
            assert layers[0].self_attn.config is configs[0]
            assert torch.equal(qwen2_vl(**inputs).logits, stock)
    assert [tuple(weights.shape) for weights in found] == [(2, 1, 15)]
    assert all(layer.self_attn.config is config for layer, config in zip(layers, configs, strict=True))
    assert [set(vars(layer.self_attn)) for layer in layers] == attributes
    with pytest.raises(KeyError):
        with recorded_rows(qwen2_vl, [3], None):
            raise KeyError("an error inside")
    assert all(layer.self_attn.config is config for layer, config in zip(layers, configs, strict=True))


@pytest.mark.parametrize("window", [None, 3])
def test_rows_from_the_definition(window):
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, heads, 7, 4, generator=generator) for heads in (4, 2))
    found = attention_rows(query, key, [0, 5], 0.5, window)
    for head in range(4):
        for index, row in enumerate([0, 5]):
            seen = range(0 if window is None else max(0, row - window + 1), row + 1)
            scores = torch.tensor([float(query[0, head, row] @ key[0, head // 2, j]) * 0.5 for j in seen]).exp()
            expected = torch.zeros(7)
            expected[list(seen)] = scores / scores.sum()
            assert torch.allclose(found[head, index], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [2]}, r"layers 0 to 1, .*found \[2\]"),
        ({"layers": []}, r"layers 0 to 1, .*found \[\]"),
        ({"rows": []}, "rows in 0..14"),
        ({"rows": [15]}, r"rows \[15\]"),
        ({"grid": (3, 3)}, "3 x 3 cells does not fit 6 image tokens"),
    ],
)
def test_bad_arguments_are_refused(qwen2_vl, change, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        attention_map(qwen2_vl, inputs_of(ROWS), **{**WANTED, **change})
