# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The Chat tab: candidates with scores, boxes drawn, positions shown; by LLaMA-Factory's engine, then in a browser."""

import io

import numpy as np
import pytest
from chromium import take_pictures
from PIL import Image

from llamafactory_clinkd.webui.chat_model import generate_candidates, positions_note
from llamafactory_clinkd.webui.chat_tab import COLOURS
from llamafactory_clinkd.webui.locales import LANGUAGES, texts

from .answering_model import ANSWER, QUESTION


pytestmark = pytest.mark.slow

SETTINGS = {"max_new_tokens": 40, "top_p": 0.7, "temperature": 0.95}


@pytest.fixture(scope="module")
def chatter(answering_model):
    """Stock's chat model, which decodes with three beams."""
    from llamafactory.chat import ChatModel

    return ChatModel(
        {
            "model_name_or_path": str(answering_model),
            "template": "qwen2_vl",
            "infer_dtype": "float32",
            "num_beams": 3,
            "do_sample": False,
        }
    )


def candidates_of(chatter, scan, **changes):
    messages = [{"role": "user", "content": QUESTION}]
    with Image.open(scan) as image:
        answers = generate_candidates(
            chatter, messages, "", "", image.convert("RGB"), **SETTINGS | {"count": 3, "mode": "beam"} | changes
        )
    assert messages == [{"role": "user", "content": QUESTION}]
    return answers


@pytest.mark.parametrize("skip", [True, False])
def test_the_best_beam_is_stocks_answer(chatter, scan, skip):
    answers = candidates_of(chatter, scan, skip_special_tokens=skip)
    with Image.open(scan) as image:
        (stock,) = chatter.chat(
            [{"role": "user", "content": QUESTION}],
            images=[image.convert("RGB")],
            max_new_tokens=40,
            skip_special_tokens=skip,
        )
    assert answers[0]["text"] == stock.response_text.removesuffix("<|im_end|>")
    assert len({answer["text"] for answer in answers}) == 3
    logprobs = [answer["logprob"] for answer in answers]
    assert logprobs[0] == max(logprobs) and logprobs[0] > -0.1
    if not skip:
        assert answers[0]["text"] == ANSWER


def test_samples_are_the_same_each_time(chatter, scan):
    first, second = (
        candidates_of(chatter, scan, count=4, mode="sample", temperature=1.5, top_p=1.0, skip_special_tokens=True)
        for _ in range(2)
    )
    assert first == second and len(first) == 4


def test_without_an_image_the_prompt_has_none(chatter):
    answers = generate_candidates(
        chatter, [{"role": "user", "content": "Hello"}], "", "", None, count=2, mode="beam", skip_special_tokens=True,
        **SETTINGS | {"max_new_tokens": 4},
    )  # fmt: skip
    assert len(answers) == 2


def test_positions_of_the_checkpoint_are_named(chatter):
    assert positions_note(chatter.engine, "en") == (
        "ClinKD: rotary positions mcg, square images, as saved with this checkpoint."
    )
    assert "mcg" in positions_note(chatter.engine, "ko")


def boxes_text(lang):
    words = texts(lang)["chat"]
    return words["boxes"].format(count=1, unit=words["boxes_thousandths"])


def test_candidates_and_boxes_in_a_browser(open_board, server, answering_model, scan, scorer, tmp_path):
    words = texts("en")["chat"]
    board = open_board()
    tab = board.load_model(answering_model)
    board.wait_for_value("", f"Model loaded, now you can chat with your model! {positions_text('en')}")

    board.page.get_by_role("button", name=words["title"]).click()
    answer = tab.get_by_role("button", name=words["answer"])
    answer.click()
    board.wait_for_text(words["no_question"])
    board.fill_query(tab, QUESTION)
    answer.click()
    board.wait_for_text(texts("en")["elements"]["sasg_scorer"]["label"] + ": ")  # no hub here
    board.fill(board.words("sasg_scorer"), str(scorer), within=tab)
    answer.click()
    board.wait_for_text(words["no_image_to_score"])
    board.fill(board.words("sasg_candidates"), "0", within=tab)
    answer.click()
    board.wait_for_text(texts("en")["messages"]["invalid"])
    take_pictures(board.page, tmp_path, "refused")
    assert tab.get_by_placeholder("Input...").input_value() == QUESTION
    board.fill(board.words("sasg_candidates"), "3", within=tab)
    board.close_messages()

    tab.locator("input[type=file]").first.set_input_files(scan)
    tab.locator("img").first.wait_for()
    answer.click()
    board.wait_for_text(words["scored_by"].format(scorer=scorer.name))
    board.wait_for_text(boxes_text("en"))
    table = tab.get_by_role("table").first.inner_text()
    assert all(words[name] in table for name in ("rank", "score", "logprob", "text"))
    assert "square(250,100),(700,600)" in tab.get_by_test_id("bot").inner_text()
    assert drawn_box(board, tab) == pytest.approx([250, 100, 700, 600], abs=8)

    for lang in [*LANGUAGES[1:], "en"]:
        board.speak(lang)
        foreign = texts(lang)["chat"]
        board.wait_for_text(boxes_text(lang))
        board.wait_for_text(positions_text(lang))
        shown = tab.inner_text()
        for name in ("title", "answer", "draw", "rank", "score", "logprob", "text"):
            assert foreign[name] in shown, (lang, name)
        for width, scheme in ((1280, "light"), (1920, "dark")):
            board.look(width, scheme)
            take_pictures(board.page, tmp_path, f"answered_{lang}_{width}_{scheme}")
            assert board.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    tab.get_by_role("button", name="Clear history").click()
    tab.get_by_role("table").first.wait_for(state="hidden")
    board.fill_query(tab, QUESTION)
    tab.get_by_role("button", name="Submit", exact=True).click()
    tab.get_by_test_id("bot").get_by_text("600").wait_for()
    tab.get_by_role("button", name=words["draw"]).click()
    board.wait_for_text(boxes_text("en"))
    assert drawn_box(board, tab) == pytest.approx([250, 100, 700, 600], abs=8)
    assert "Zebra" not in server.log.read_text(encoding="utf-8")


def test_two_browsers_use_the_same_model_in_turn(open_board, answering_model, scan):
    words = texts("en")["chat"]
    tabs = []
    for _ in range(2):
        board = open_board()
        tab = board.load_model(answering_model)
        board.page.get_by_role("button", name=words["title"]).click()
        board.fill(board.words("sasg_scorer"), "logprob", within=tab)
        tab.locator("input[type=file]").first.set_input_files(scan)
        tab.locator("img").first.wait_for()
        board.fill_query(tab, QUESTION)
        tabs.append((board, tab))
    for _, tab in tabs:
        tab.get_by_role("button", name=words["answer"]).click()
    for board, tab in tabs:
        board.wait_for_text(boxes_text("en"))
        assert "square(250,100),(700,600)" in tab.get_by_test_id("bot").inner_text()


def positions_text(lang):
    words = texts(lang)["chat"]
    return words["positions"].format(variant="mcg", images=words["square_images"])


def drawn_box(board, tab):
    """Bounds of the outline in the last picture of the tab, in thousandths."""
    source = tab.locator("img").last.get_attribute("src")
    picture = Image.open(io.BytesIO(board.page.request.get(source).body())).convert("RGB")
    colour = [int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]
    y, x = np.nonzero((np.asarray(picture) == colour).all(axis=-1))
    return [1000 * v / side for v, side in zip((x.min(), y.min(), x.max(), y.max()), picture.size * 2, strict=True)]
