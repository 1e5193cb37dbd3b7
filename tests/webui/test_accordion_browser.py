# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""LLaMA Board in a real browser: setting, previewing, saving, loading, bad input, languages."""

import json
import re

import pytest
import yaml
from chromium import take_pictures
from llamafactory.webui.locales import ALERTS, LOCALES

from llamafactory_clinkd.webui.locales import LANGUAGES, texts
from llamafactory_clinkd.webui.presets import DEMO_MODEL, PACKAGE

from .board_page import PATIENCE
from .conftest import Server


pytestmark = pytest.mark.slow

EXTRA_ARGS = '{"optim": "sgd", "preprocessing_num_workers": 1}'
GROUPS = ("positions", "distillation", "correction", "generation", "selection")


@pytest.fixture
def ready(open_board, workspace):
    """A page on which the tiny run is set up, all groups open."""
    board = open_board()
    board.set_up_run(workspace, "unused", EXTRA_ARGS)
    board.open(*GROUPS)
    board.fill(board.words("ref_model"), str(workspace / "teacher"))
    board.choose(board.words("eval_dataset"), "tiny_test")
    return board


def test_preview_save_and_load(ready, server, workspace, tmp_path):
    ready.fill(ready.words("kd_alpha"), "0.25")
    ready.box("image_square").uncheck()
    ready.fill(ready.words("correction_max_samples"), "9")
    ready.press("Preview command")
    ready.wait_for_text("--kd_alpha 0.25")
    preview = ready.text()
    assert "--image_square False" in preview and f"--ref_model {workspace / 'teacher'}" in preview
    assert "sk-never-shown" not in ready.page.content()

    ready.choose("Config path", "kept.yaml")
    ready.press("Save arguments")
    ready.wait_for_text("llamaboard_config")
    take_pictures(ready.page, tmp_path, "saved")
    saved = (server.folder / "llamaboard_config" / "kept.yaml").read_text(encoding="utf-8")
    assert "sk-never-shown" not in saved
    config = yaml.safe_load(saved)
    assert not [name for name in config if name.startswith("clinkd.")]
    assert json.loads(config["train.extra_args"])["kd_alpha"] == 0.25

    ready.fill(ready.words("kd_alpha"), "0.9")
    ready.box("image_square").check()
    ready.fill(ready.words("correction_max_samples"), "")
    ready.press("Load arguments")
    ready.wait_for_value(ready.words("kd_alpha"), "0.25")
    ready.wait_for_value(ready.words("correction_max_samples"), "9")
    assert not ready.box("image_square").is_checked()
    assert json.loads(ready.field("Extra arguments").input_value()) == json.loads(EXTRA_ARGS)


@pytest.mark.long  # not seen passing beside other work: stock's page did not show the loaded values in a minute
def test_saved_configuration_loads_without_the_plugin(ready, open_board, server):
    ready.fill(ready.words("kd_alpha"), "0.75")
    ready.choose("Config path", "from_plugin.yaml")
    ready.press("Save arguments")
    ready.wait_for_text("from_plugin.yaml")

    stock = Server(server.folder, plugin=False)
    try:
        stock.wait()
        board = open_board(url=stock.url)
        assert "ClinKD" not in board.page.content()
        board.choose("Config path", "from_plugin.yaml")
        board.press("Load arguments")
        board.wait_for_text(ALERTS["info_config_loaded"]["en"])
        # Not "Model path": stock fills it anew when the model's name is loaded, on a busy machine after the saved one.
        board.wait_for_value("Data dir", ready.field("Data dir").input_value())
        board.page.get_by_role("button", name="Extra configurations").click()
        extra = json.loads(board.field("Extra arguments").input_value())
        assert extra["use_clinkd"] is True and extra["kd_alpha"] == 0.75 and extra["optim"] == "sgd"
        board.press("Preview command")
        board.wait_for_text("--kd_alpha 0.75")
    finally:
        stock.stop()


BAD_VALUES = {
    "ru": [("kd_alpha", "-1", "kd_alpha: -1.0"), ("mcg_alpha_h", "0", "mcg_alpha_h: 0")],
    "zh": [("rope_sections", "1,2", "rope_sections: [1, 2]"), ("pseudo_label_samples", "", "pseudo_label_samples")],
    "ko": [("correction_max_samples", "many", "correction_max_samples: many"), ("kd_epochs", "0", "kd_epochs: 0.0")],
    "ja": [("ref_model", "", "ref_model is missing"), ("ref_model", "./nowhere", "ref_model: ./nowhere")],
    "en": [("kd_temperature", "0", "kd_temperature: 0.0"), ("sasg_candidates", "1.5", "sasg_candidates: 1.5")],
}


def test_bad_input_is_reported_in_every_language_and_nothing_starts(ready, server, tmp_path):
    for lang, cases in BAD_VALUES.items():
        ready.speak(lang)
        for box, value, message in cases:
            good = ready.box(box).input_value()
            ready.fill(ready.words(box), value)
            ready.press(LOCALES["start_btn"][lang]["value"])
            ready.wait_for_text_anywhere(message)
            assert f"{texts(lang)['messages']['invalid']} ({ready.words(box)}" in ready.text()
            ready.close_messages()
            ready.fill(ready.words(box), good)
        take_pictures(ready.page, tmp_path, f"bad_{lang}")
    assert not (server.folder / "saves" / "Qwen2-VL-2B-Instruct" / "full" / "unused").exists()
    assert "sk-never-shown" not in server.log.read_text(encoding="utf-8")


def test_boxes_of_other_phases_are_hidden_and_unused_ones_disabled_with_the_reason(ready):
    expect = pytest.importorskip("playwright.sync_api").expect
    expect(ready.field("Epochs")).to_be_disabled(timeout=PATIENCE)  # kd_epochs and correction_rounds replace it
    ready.page.get_by_label("correct", exact=True).first.uncheck()
    expect(ready.box("correction_rounds")).to_have_count(0, timeout=PATIENCE)
    assert texts("en")["groups"]["correction"] not in ready.text().splitlines()
    assert ready.box("mcg_gap").is_disabled() and texts("en")["reasons"]["needs_mcg_released"] in ready.text()
    assert ready.box("kd_alpha").is_enabled()
    ready.box("use_clinkd").uncheck()
    expect(ready.box("kd_alpha")).to_have_count(0, timeout=PATIENCE)
    expect(ready.field("Epochs")).to_be_enabled(timeout=PATIENCE)
    ready.box("use_clinkd").check()
    ready.wait_for_value(ready.words("ref_model"), ready.box("ref_model").input_value())
    assert ready.box("ref_model").input_value().endswith("teacher")  # hidden boxes keep their values


def test_presets_fill_the_boxes_and_the_plan_is_below(open_board, tmp_path):
    board, words = open_board(1440), texts("en")["board"]
    board.open("clinkd")
    board.choose(words["preset"]["label"], words["presets"]["on_policy"])
    board.wait_for_text(texts("en")["groups"]["distillation"])
    board.open("distillation")
    board.wait_for_value(board.words("kd_divergence"), "jsd")
    assert board.box("use_clinkd").is_checked() and board.box("ref_model").input_value() == ""

    board.choose(words["preset"]["label"], words["presets"]["demo"])
    board.wait_for_value("Model name", DEMO_MODEL)
    for label, value in [("Model path", PACKAGE / "demo/models/base"), ("Data dir", PACKAGE / "demo/data")]:
        board.wait_for_value(label, str(value))
    board.wait_for_value("Chat template", "qwen2_vl")
    assert board.field("Learning rate").input_value() == "0.001"
    board.page.get_by_role("button", name=words["estimate"]).click()
    board.wait_for_text_anywhere("The recipe fits: at most")
    table = board.page.get_by_role("table").filter(has_text=words["plan"]["memory"]).inner_text()
    assert all(phase in table for phase in ("pseudo_label", "distill", "correct", "predict"))
    for width in (1440, 390):
        for scheme in ("light", "dark"):
            board.look(width, scheme)
            take_pictures(board.page, tmp_path, f"demo_{width}_{scheme}")
            assert board.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    board.choose("GPU of the estimate", "3090")
    board.page.get_by_role("button", name=words["estimate"]).click()
    board.wait_for_text_anywhere("of 23.5 GiB")
    board.press("Preview command")
    board.wait_for_text("--dataset demo_train")


def test_teacher_name_fills_its_path(ready):
    ready.choose(ready.words("teacher_name"), "Qwen2-VL-72B-Instruct")
    ready.wait_for_value(ready.words("ref_model"), "Qwen/Qwen2-VL-72B-Instruct")


@pytest.mark.parametrize(
    "width, scheme",
    [
        pytest.param(1280, "light", marks=pytest.mark.long),
        pytest.param(1280, "dark", marks=pytest.mark.long),
        pytest.param(1920, "light", marks=pytest.mark.long),
        (1920, "dark"),
    ],
)
def test_five_languages(open_board, tmp_path, width, scheme):
    board = open_board(width, scheme)
    board.open("clinkd")
    board.box("use_clinkd").check()
    board.open(*GROUPS)
    for lang in [*LANGUAGES[1:], "en"]:
        board.speak(lang)
        catalogue = texts(lang)
        board.wait_for_text(catalogue["elements"]["sasg_scorer"]["info"])
        shown = board.text()
        for words in catalogue["elements"].values():
            assert words["label"] in shown
        for text in [*catalogue["groups"].values(), catalogue["board"]["preset"]["label"]]:
            assert text in shown
        if lang != "en":
            assert not re.search("|".join(re.escape(w["info"]) for w in texts("en")["elements"].values()), shown)
        take_pictures(board.page, tmp_path, f"{lang}_{width}_{scheme}")
        assert board.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
