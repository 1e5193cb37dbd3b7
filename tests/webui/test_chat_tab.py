# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The messages of the Chat tab, without a model: invalid questions, the table, the languages."""

from types import SimpleNamespace

import pytest
from PIL import Image

from llamafactory_clinkd.webui import chat_tab
from llamafactory_clinkd.webui.chat_model import with_positions_note
from llamafactory_clinkd.webui.chat_tab import (
    OPTIONS,
    InvalidQuestionError,
    candidates_table,
    check_question,
    translate,
)
from llamafactory_clinkd.webui.locales import LANGUAGES, texts


ROW = {
    "scorer": "few_steps_clip",
    "candidates": [
        {"text": "spleen", "score": None, "rank": 2, "logprob": -0.5},
        {"text": "liver", "score": 21.456, "rank": 1, "logprob": -1.25},
    ],
}


@pytest.fixture(autouse=True)
def scorers(monkeypatch):
    monkeypatch.setattr(chat_tab, "cached_scorer", load_scorer)


def load_scorer(name):
    if name == "missing":
        raise RuntimeError("no such scorer: fetch it")
    return SimpleNamespace(reads_images=name != "logprob")


def check_values(lang="en", query="Where?", image=None, engine="huggingface", **changes):
    values = dict(zip(OPTIONS, (3, "beam", "image", "logprob"), strict=True)) | changes
    chatter = SimpleNamespace(engine=SimpleNamespace(name=engine))
    return check_question(chatter, values, query, image, lang)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_each_problem_is_in_the_language_of_the_page(lang):
    catalogue = texts(lang)
    words, label = catalogue["chat"], catalogue["elements"]["sasg_scorer"]["label"]
    for changes, message in [
        ({"query": "  "}, words["no_question"]),
        ({"engine": "vllm"}, words["not_huggingface"]),
        ({"sasg_scorer": "some_clip"}, words["no_image_to_score"]),
        ({"sasg_scorer": "missing"}, f"{label}: no such scorer: fetch it"),
        ({"sasg_candidates": 0}, catalogue["messages"]["invalid"]),
        ({"sasg_candidates": None}, catalogue["elements"]["sasg_candidates"]["label"]),
    ]:
        with pytest.raises(InvalidQuestionError) as reason:
            check_values(lang, **changes)
        assert message in str(reason.value)


def test_good_options_come_back_as_recipe_keys():
    options, scorer = check_values(sasg_scorer=" some_clip ", image=Image.new("L", (2, 2)), sasg_candidates=2)
    assert options == {
        "sasg_candidates": 2, "sasg_mode": "beam", "sasg_region": "image", "sasg_scorer": "some_clip"
    }  # fmt: skip
    assert scorer.reads_images


def test_the_best_candidate_is_first_under_the_scorers_name():
    table = candidates_table(ROW, "en")
    assert table["label"] == "Candidates, scored by few_steps_clip"
    assert table["value"]["data"] == [["1", "21.46", "-1.25", "liver"], ["2", "–", "-0.50", "spleen"]]
    assert candidates_table(ROW, "zh")["value"]["headers"] == ["名次", "得分", "对数概率", "答案"]


def test_another_language_also_reaches_what_is_shown_already():
    updates = translate("ko", "logprob", {"row": ROW, "boxes": 1, "frame": [560, 420]})
    assert updates[0]["label"] == "ClinKD 후보 답변과 박스"
    assert updates[-2]["label"] == "답변의 박스: 1, 좌표: 모델이 받는 이미지의 픽셀(560 x 420)"
    assert updates[-1]["value"]["headers"][0] == "순위"
    region = updates[3 + OPTIONS.index("sasg_region")]
    assert region == {
        "label": "채점 영역", "info": texts("ko")["reasons"]["needs_image_scorer"], "interactive": False
    }  # fmt: skip
    assert translate("ko", "some_clip", None)[-2:] == [{}, {}]


def test_a_model_that_cannot_be_served_is_answered_with_the_reason():
    def stock(self, data):
        yield "Loading"
        raise ValueError("`infer_backend: vllm` computes rotary positions itself")

    pytest.importorskip("gradio", reason="gradio is not installed: it comes with LLaMA-Factory's own requirements")
    page = SimpleNamespace(manager=SimpleNamespace(get_elem_by_id=lambda name: name), loaded=False)
    with pytest.warns(UserWarning, match="infer_backend"):
        messages = list(with_positions_note(stock)(page, {"top.lang": "ru"}))
    assert messages[0] == "Loading" and messages[1].startswith("Модель не удалось загрузить: `infer_backend: vllm`")


def test_loading_another_model_is_stock():
    page = SimpleNamespace(
        manager=SimpleNamespace(get_elem_by_id=lambda name: name), loaded=True, engine=SimpleNamespace(model=None)
    )
    assert list(with_positions_note(lambda self, data: iter(["a", "b"]))(page, {"top.lang": "en"})) == ["a", "b"]
