# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import builtins
import json

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import BertConfig, BertTokenizerFast

from llamafactory_clinkd.select import DEFAULT_SCORER, ScorerError, load_scorer


def picture(seed, size=(40, 30)):
    values = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_scores_equal_open_clip_one_by_one(clip_folder):
    scorer = load_scorer(str(clip_folder))
    images = [picture(0), picture(1).convert("L"), picture(2)]
    texts = [["left hip", "right hip"], ["liver"], ["left hip", "a mass in the lung", "left hip"]]
    got = scorer.score(images, texts)

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    model.eval()
    for image, row, values in zip(images, texts, got, strict=True):
        for text, value in zip(row, values, strict=True):
            with torch.no_grad():
                a = model.encode_image(preprocess(image.convert("RGB"))[None])
                b = model.encode_text(tokenizer([text]))
            assert value == pytest.approx(100 * torch.cosine_similarity(a, b).item(), abs=1e-3)
    assert got[2][0] == got[2][2]
    assert len({round(value, 3) for row in got for value in row}) == 5


def test_each_image_and_each_text_is_encoded_once(clip_folder, monkeypatch):
    scorer = load_scorer(str(clip_folder))
    seen = []
    encode_image, encode_text = scorer.model.encode_image, scorer.model.encode_text
    monkeypatch.setattr(scorer.model, "encode_image", lambda x, **kw: seen.append(len(x)) or encode_image(x, **kw))
    monkeypatch.setattr(scorer.model, "encode_text", lambda x, **kw: seen.append(len(x)) or encode_text(x, **kw))
    scorer.score([picture(0), picture(1)], [["a", "b", "c"], ["b", "d"]])
    assert seen == [2, 4]
    assert scorer.score([picture(0)], [[]]) == [[]]
    assert seen == [2, 4]
    with pytest.raises(ValueError, match="2 images and 1 lists"):
        scorer.score([picture(0), picture(1)], [["a"]])


def test_identity_tells_weights_apart(clip_folder, make_clip, tmp_path):
    one, same = load_scorer(str(clip_folder)), load_scorer(f"local-dir:{clip_folder}")
    other = load_scorer(str(make_clip(tmp_path / "tiny_clip", seed=1)))
    assert one.identity == same.identity and one.identity["library"] == f"open_clip_torch {open_clip.__version__}"
    assert one.identity["name"] == other.identity["name"] == "tiny_clip"
    assert one.identity["weights_sha256"] != other.identity["weights_sha256"]
    assert one.short_name.startswith("tiny_clip (") and one.short_name != other.short_name
    json.dumps(one.identity)


def test_an_architecture_with_a_weights_file(tmp_path, monkeypatch, clip_folder):
    config = tmp_path / "configs" / "tiny-arch.json"
    config.parent.mkdir()
    config.write_text(json.dumps(json.loads((clip_folder / "open_clip_config.json").read_text())["model_cfg"]))
    open_clip.add_model_config(config.parent)
    weights = tmp_path / "weights.pt"
    torch.save(load_file(clip_folder / "open_clip_model.safetensors"), weights)
    scorer = load_scorer(f"tiny-arch@{weights}")
    assert scorer.identity["weights"] == "weights.pt"
    assert scorer.identity["weights_sha256"] == load_scorer(str(clip_folder)).identity["weights_sha256"]

    with pytest.raises(ScorerError, match="names no weights.*ViT-B-32@TAG.*laion2b_s34b_b79k"):
        load_scorer("ViT-B-32")
    with pytest.raises(ScorerError, match="neither a file nor one of the weights of ViT-B-32"):
        load_scorer("ViT-B-32@no-such-tag")


def test_a_transformers_text_tower_is_read_from_the_folder(clip_folder, make_clip, tmp_path, monkeypatch):
    """As BiomedCLIP: its configuration names a text model of the hub, which must not be downloaded here."""
    folder = tmp_path / "bert_clip"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "left", "hip", "liver", "mass"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    BertConfig(
        vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    ).save_pretrained(folder)
    text = {"hf_tokenizer_name": str(folder), "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    text |= {"hf_model_name": str(folder), "hf_model_pretrained": False, "context_length": 16}
    tiny = json.loads((clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    make_clip(folder, {**tiny, "text_cfg": text}, build=open_clip.CustomTextCLIP)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": "some/hub-model", "hf_tokenizer_name": "some/hub-model"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    scorer = load_scorer(str(folder))
    (scores,) = scorer.score([picture(0)], [["left hip", "liver mass"]])
    assert scores[0] != scores[1]
    (folder / "config.json").unlink()
    with pytest.raises(ScorerError, match="config.json and tokenizer files belong there too"):
        load_scorer(str(folder))


def test_it_runs_on_the_given_device(clip_folder, monkeypatch):
    """On the meta device, which every machine has: weights and inputs are there, and nothing is computed."""
    scorer = load_scorer(str(clip_folder))
    moved = type(scorer)(
        scorer.model, scorer.preprocess, scorer.tokenizer, scorer.identity, scorer.short_name, device="meta"
    )
    seen = []
    monkeypatch.setattr(moved.model, "encode_image", lambda x, **kw: seen.append(x.device.type) or torch.ones(1, 2))
    monkeypatch.setattr(moved.model, "encode_text", lambda x, **kw: seen.append(x.device.type) or torch.ones(1, 2))
    assert moved.score([picture(0)], [["a"]]) == [[200.0]]
    assert seen == ["meta", "meta"] and {p.device.type for p in moved.model.parameters()} == {"meta"}


def test_errors_say_how_to_get_a_scorer(tmp_path, monkeypatch, clip_folder):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ScorerError, match="(?s)BiomedCLIP.*cannot be loaded.*without network.*give its path.*logprob"):
        load_scorer(DEFAULT_SCORER)
    with pytest.raises(ScorerError, match="neither an existing folder"):
        load_scorer("no/such/folder")
    with pytest.raises(ScorerError, match="open_clip_config.json is missing"):
        load_scorer(str(tmp_path))

    (tmp_path / "open_clip_config.json").write_text((clip_folder / "open_clip_config.json").read_text())
    with pytest.raises(ScorerError, match="matching weights"):  # and never a randomly initialised model
        load_scorer(str(tmp_path))

    real = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *args: (_ for _ in ()).throw(ImportError(name)) if name == "open_clip" else real(name, *args),
    )
    with pytest.raises(ScorerError, match=r"pip install 'llamafactory-clinkd\[clip\]'"):
        load_scorer(str(clip_folder))


def test_logprob_is_named_as_such():
    scorer = load_scorer("logprob")
    assert "not CLIP" in scorer.short_name and not scorer.reads_images
    rows = [{"candidates": [{"logprob": -1.0}, {"logprob": float("nan")}]}, {"candidates": [{"logprob": -1.0}]}]
    broken, fine = scorer.score_rows(rows)
    assert "no stored `logprob`" in broken.error and fine.scores == [-1.0] and fine.error is None


def test_texts_with_equal_tokens_have_equal_scores(clip_folder):
    """16 tokens are read: what follows does not break a tie."""
    scorer = load_scorer(str(clip_folder))
    long = "a liver and a spleen and a kidney and a lung and a heart and a brain and a bone"
    texts = [f"{long} left", "other", f"{long} right"]
    for width in (3, 2, 1):
        (scores,) = scorer.score([picture(0)], [texts[:width] + texts[2:]])
        assert scores[0] == scores[-1]
