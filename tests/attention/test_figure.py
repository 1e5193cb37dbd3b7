# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import torch
from paths.conftest import sharp_workspace, trained  # noqa: F401 (fixtures)
from paths.runs import QUESTION
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from llamafactory_clinkd.attention import attention_figure
from llamafactory_clinkd.attention.answer_attention import AnswerAttention, word_columns
from llamafactory_clinkd.attention.figure import attention, draw, parse_label
from llamafactory_clinkd.utils.boxes import Box


@pytest.mark.filterwarnings("error:Glyph")
def test_draw_puts_each_map_over_the_picture(tmp_path):
    picture = Image.new("RGB", (100, 60), "white")
    one_cell = torch.zeros(3, 5)
    one_cell[0, 4] = 0.25
    panels = [
        ("here", AnswerAttention(one_cell, "$box$ (1,2)\x17\x1d", ["a"])),
        ("nowhere", AnswerAttention(torch.zeros(3, 5), "", [])),
    ]
    path = draw(picture, panels, "Where is it?", tmp_path / "new" / "map.png")
    drawn = Image.open(path)
    assert drawn.format == "PNG" and list(path.parent.iterdir()) == [path]
    red, green, blue = np.moveaxis(np.asarray(drawn.convert("RGB")).astype(int), 2, 0)
    columns = ((red > green + 60) & (red > blue + 60)).nonzero()[1] / drawn.width
    assert len(columns) and 1 / 2 < min(columns) and max(columns) < 2 / 3  # the right of the middle panel of three


def test_a_long_caption_is_inside_the_picture(tmp_path):
    picture, long = Image.new("RGB", (120, 120), "black"), " ".join(["The liver is of normal size and contour"] * 40)
    paths = [
        draw(picture, [("a", AnswerAttention(torch.zeros(4, 4), text, []))], "Where?", tmp_path / f"{len(text)}.png")
        for text in ("Here.", long)
    ]
    short, tall = (np.asarray(Image.open(path).convert("L")) for path in paths)
    assert tall[-4:].min() == 255 and len(tall) > 1.8 * len(short)  # nothing at the bottom edge
    assert (tall < 100).all(1).sum() == 0 and (tall < 100).sum(0).max() > 0.9 * (short < 100).sum(0).max()


def test_boxes_of_the_answer_are_drawn_on_the_map(tmp_path):
    def drawn(*boxes):
        panel = ("a", AnswerAttention(torch.zeros(4, 4), "Here.", [], list(boxes)))
        path = draw(Image.new("RGB", (120, 120), "grey"), [panel], "Where?", tmp_path / "map.png")
        return np.asarray(Image.open(path).convert("RGB")).astype(int)

    def extent(*boxes):
        rows, columns = np.abs(drawn(*boxes) - drawn()).max(2).nonzero()
        return np.array([columns.min(), rows.min(), columns.max(), rows.max()])

    whole, part = extent(Box(0, 0, 1000, 1000)), extent(Box(500, 250, 1000, 750))
    width, height = whole[2:] - whole[:2]
    wanted = [whole[0] + width / 2, whole[1] + height / 4, whole[2], whole[1] + 3 * height / 4]
    assert np.abs(part - wanted).max() < 0.03 * width


def test_no_model_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        attention_figure([], "any.png", "Where?", tmp_path / "map.png")


def test_labels():
    assert parse_label("mcg=runs/a=b") == ("mcg", "runs/a=b")
    assert parse_label("runs/mcg") == ("mcg", "runs/mcg")


def test_a_word_is_found_whatever_its_case_and_tokens():
    class Letters:
        """One token a letter."""

        def decode(self, ids):
            return "".join(map(chr, ids))

    ids = [ord(letter) for letter in "The Left hip"]
    assert word_columns(Letters(), ids, "left") == [4, 5, 6, 7]
    assert word_columns(Letters(), ids, "right") == []


@pytest.mark.slow
def test_saved_models_side_by_side(sharp_workspace, trained, tmp_path, monkeypatch):  # noqa: F811
    from llamafactory_clinkd.attention import figure

    panels, real = [], figure.draw

    def draw_and_note(picture, found, *rest):
        panels.extend(found)
        return real(picture, found, *rest)

    monkeypatch.setattr(figure, "draw", draw_and_note)
    image = sharp_workspace / "data" / "images" / "ct_big.png"
    adapter = trained("mcg", finetuning_type="lora", lora_rank=2, lora_target="q_proj,v_proj")
    models = [("stock", sharp_workspace / "student"), ("2D", trained("rope_2d")), ("adapter", adapter)]
    path = attention_figure(models, image, QUESTION, tmp_path / "map.png", word="square", layers=[-1])
    assert path.stat().st_size > 0
    assert [label for label, _ in panels] == ["stock", "2D", "adapter"]
    # The stock model sees 600 x 400 within its processor's 252 x 252 pixels, the others a square of them.
    assert [tuple(found.map.shape) for _, found in panels] == [(7, 11), (9, 9), (9, 9)]
    assert all("square" in "".join(found.tokens).lower() for _, found in panels)

    with pytest.raises(ValueError, match="'spleen' is neither in the answer"):
        attention_figure(models[:1], image, QUESTION, tmp_path / "map.png", word="spleen", answer="Square")


@pytest.mark.slow
def test_command(sharp_workspace, tmp_path):  # noqa: F811
    app = Typer()
    app.command()(attention)
    image = sharp_workspace / "data" / "images" / "ct_000.png"
    arguments = [
        f"base={sharp_workspace / 'student'}",
        "--image",
        str(image),
        "--question",
        QUESTION,
        "--answer",
        "Left",
    ]
    done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "map.png"), "--layer", "0", "--layer", "1"])
    assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "map.png").format == "PNG"
