# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""vLLM and SGLang: refused where they would be silently wrong; and the pure functions that a plugin would call."""

from importlib.metadata import EntryPoint

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from rope.conftest import FROM_TOKENS, qwen2_vl  # noqa: F401 (fixture)
from rope.layouts import batch_of, rows

from llamafactory_clinkd.rope import apply_rope, vllm_plugin, write_rope_config
from llamafactory_clinkd.rope import mcg as positions

from .runs import infer_keys


REFUSED = [
    ({"variant": "mcg", "image_square": True}, "stock M-RoPE.*`rope_variant: mcg`.*silently wrong"),
    ({"variant": "mrope", "sections": [0, 4, 4]}, r"stock M-RoPE.*`rope_sections: \[0, 4, 4\]`"),
    ({"variant": "rope_mixed"}, "stock M-RoPE.*rope_mixed"),
    ({"variant": "mrope", "image_square": True}, "images as they are.*`image_square: true`"),
]


@pytest.fixture
def get_infer_args(monkeypatch):
    """Stock's ``get_infer_args`` as the chat model calls it, without its check that the engine is installed."""
    from llamafactory.chat import chat_model
    from llamafactory.hparams import parser

    monkeypatch.setattr(parser, "check_version", lambda *args, **kwargs: None)
    return chat_model.get_infer_args


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
@pytest.mark.parametrize(("saved", "message"), REFUSED)
def test_foreign_engine_is_refused_for_other_positions_or_images(get_infer_args, tmp_path, backend, saved, message):
    write_rope_config(tmp_path, saved)
    with pytest.raises(ValueError, match=f"(?s)infer_backend: {backend}.*{message}"):
        get_infer_args(infer_keys(tmp_path, infer_backend=backend))
    assert get_infer_args(infer_keys(tmp_path))[0].model_name_or_path == str(tmp_path)


def test_foreign_engine_is_refused_for_a_saved_adapter(get_infer_args, tmp_path):
    write_rope_config(tmp_path / "adapter", {"variant": "rope_2d"})
    (tmp_path / "base").mkdir()
    keys = {"adapter_name_or_path": str(tmp_path / "adapter"), "finetuning_type": "lora"}
    with pytest.raises(ValueError, match="rope_2d"):
        get_infer_args(infer_keys(tmp_path / "base", infer_backend="vllm", **keys))


def test_foreign_engine_is_refused_for_a_recipe_s_keys(get_infer_args, tmp_path):
    keys = {"use_clinkd": True, "clinkd_phases": "predict", "rope_variant": "mcg_released"}
    with pytest.raises(ValueError, match="mcg_released"):
        get_infer_args(infer_keys(tmp_path, infer_backend="vllm", **keys))


def test_foreign_engine_may_serve_what_it_computes_itself(get_infer_args, tmp_path):
    assert get_infer_args(infer_keys(tmp_path, infer_backend="vllm"))
    write_rope_config(tmp_path, {"variant": "mrope", "image_square": False})
    assert get_infer_args(infer_keys(tmp_path, infer_backend="vllm"))


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows())
@pytest.mark.parametrize("variant", ["mcg", "mcg_released", "rope_2d"])
def test_positions_from_token_types_and_grids_are_the_hugging_face_path_s(qwen2_vl, variant, drawn):  # noqa: F811
    """A serving engine has ids and grids of one request at a time, without padding: each row by itself."""
    batch = batch_of(drawn)
    expected, deltas = apply_rope(qwen2_vl, variant).model.get_rope_index(**batch)
    counts = {"image": 0, "video": 0}
    for row in range(len(drawn)):
        keep = batch["attention_mask"][row].bool()
        request = {"mm_token_type_ids": batch["mm_token_type_ids"][row : row + 1, keep]}
        for kind, number in (("image", 1), ("video", 2)):
            items = sum(segment.kind == number for segment in drawn[row].segments)
            if items:
                grids = batch[f"{kind}_grid_thw"]
                request[f"{kind}_grid_thw"] = grids[counts[kind] : counts[kind] + items]
            counts[kind] += items
        found, delta = getattr(positions, variant)(**request)
        counted = deltas[row].item() + (0 if FROM_TOKENS else (~keep).sum().item())
        assert torch.equal(found[:, 0], expected[:, row, keep]) and delta.item() == counted


@pytest.fixture
def vllm_with_the_plugin(monkeypatch):
    """An environment that has a tested vLLM and the entry point; none has both beside LLaMA-Factory 0.9.5."""
    point = EntryPoint("llamafactory_clinkd", f"{vllm_plugin.__name__}:register", vllm_plugin.GROUP)
    monkeypatch.setattr(vllm_plugin, "entry_points", lambda group: [point] if group == vllm_plugin.GROUP else [])
    monkeypatch.setattr(vllm_plugin, "_vllm_version", lambda: "0.32.0")
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)


def test_llamafactory_s_vllm_backend_is_allowed_where_the_plugin_is_active(
    get_infer_args, tmp_path, monkeypatch, vllm_with_the_plugin
):
    write_rope_config(tmp_path, {"variant": "mcg", "image_square": True}, image_pixels=(1024, 10**6))
    assert get_infer_args(infer_keys(tmp_path, infer_backend="vllm"))
    with pytest.raises(ValueError, match="infer_backend: sglang"):
        get_infer_args(infer_keys(tmp_path, infer_backend="sglang"))
    keys = {"adapter_name_or_path": str(tmp_path), "finetuning_type": "lora"}
    with pytest.raises(ValueError, match="does not help: an adapter has to be merged"):
        get_infer_args(infer_keys(tmp_path, infer_backend="vllm", **keys))
    keys = {"use_clinkd": True, "clinkd_phases": "predict", "rope_variant": "mcg_released"}
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"the model has no clinkd_config.json of these keys"):
        get_infer_args(infer_keys(tmp_path / "other", infer_backend="vllm", **keys))
    write_rope_config(tmp_path / "mixed", {"variant": "rope_mixed"})
    with pytest.raises(ValueError, match="learns frequencies"):
        get_infer_args(infer_keys(tmp_path / "mixed", infer_backend="vllm"))
    for change, message in (
        (lambda: monkeypatch.setattr(vllm_plugin, "_vllm_version", lambda: "0.11.0"), "vLLM 0.11.0 is installed"),
        (lambda: monkeypatch.setenv("VLLM_PLUGINS", "other"), "VLLM_PLUGINS is 'other'"),
        (lambda: monkeypatch.setattr(vllm_plugin, "entry_points", lambda group: []), "has no entry point in vllm"),
    ):
        change()  # each is checked before the one before it
        with pytest.raises(ValueError, match=message):
            get_infer_args(infer_keys(tmp_path, infer_backend="vllm"))
