# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Figures: colours and fonts come from the page, ids do not clash, and the arithmetic is right."""

import base64
import re
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np
import pytest

from llamafactory_clinkd.report import figures

from .page_reader import assert_pdf


def all_figures() -> list[str]:
    bars = [[(31.0, (20.0, 100.0)), (None, None)], [(100.0, None), (0.0, (0.0, 0.0))]]
    return [
        figures.modality_bars(["CT", "<b>&$x_1$"], bars, [65.5, None], "a", 'said "so" <here>'),
        figures.training_curve("Loss", [(0, range(900), np.linspace(5, 1, 900)), (9, [1], [3e-5])], "b", "falls"),
        figures.training_curve("Loss", [(0, [1, 2], [float("nan"), 2.0])], "c", "partly not a number"),
        figures.status_bars([("Round 1", {"kept": 5, "corrected": 0}), ("Round 2", {})], "d", "rounds"),
        figures.proportion_bars({"CT": 3, "MR": 0}, "e", "shares"),
        figures.alpha_sweep([0.1, 0.5], {"VG": [1.0, None], "ROC": [None, None], "Average": [1.0, 2.0]}, "f", "sweep"),
    ]


def test_figures_are_well_formed_labelled_and_take_colours_and_font_from_the_page():
    for svg in all_figures():
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img" and root.get("aria-label")
        assert "font-family" not in svg and "<style" not in svg and "<metadata" not in svg
        colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) - {"none"}
        assert colours and all(re.fullmatch(r"var\(--[a-z0-9-]+, #[0-9a-f]{6}\)", colour) for colour in colours)


def test_figures_carry_themselves_as_pdf_in_the_light_colours():
    for svg in all_figures():
        content = zlib.decompress(base64.b64decode(ElementTree.fromstring(svg).get("data-pdf")))
        assert_pdf(content)
    red, green, blue = (int(figures.light_colours()["ink"][i : i + 2], 16) / 255 for i in (1, 3, 5))
    assert f"{red:.4f} {green:.4f} {blue:.4f}".encode() in content


def test_ids_of_figures_do_not_clash_and_references_stay_within():
    seen: set[str] = set()
    for svg in all_figures():
        ids = re.findall(r'\bid="([^"]+)"', svg)
        assert len(ids) == len(set(ids)) and not seen & set(ids)
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg)) <= set(ids)
        seen |= set(ids)


def test_labels_are_text_not_markup_nor_mathematics():
    svg = all_figures()[0]
    assert "&lt;b&gt;&amp;$x_1$" in svg
    assert 'aria-label="said &quot;so&quot; &lt;here&gt;"' in svg


def test_bars_have_the_length_of_their_values():
    svg = figures.modality_bars(["CT"], [[(40.0, None)]], [80.0], "x", "one bar")
    bar = re.search(r"<path d=\"M ([\d.]+) [\d.]+ \nL ([\d.]+) [^\"]*\"[^>]*--run-0", svg)
    ticks = {text: float(x) for x, text in re.findall(r'x="([\d.]+)"[^>]*>(0|40|80)</text>', svg)}
    assert float(bar[1]) == pytest.approx(ticks["0"], abs=1e-3)
    assert float(bar[2]) == pytest.approx(ticks["40"], abs=1e-3)


def test_bucket_means_keep_short_series_and_average_long_ones():
    x, y = figures.bucket_means([1, 2, 3], [4.0, 5.0, 6.0], 400)
    assert x.tolist() == [1, 2, 3] and y.tolist() == [4.0, 5.0, 6.0]
    x, y = figures.bucket_means(range(1000), np.arange(1000) * 2.0, 100)
    assert len(x) == 100 and x[0] == pytest.approx(4.5) and y[0] == pytest.approx(9.0)
    assert np.allclose(y, 2 * x)


@pytest.mark.parametrize(("size", "window"), [(40, 2), (41, 3), (7, 7), (100, 5)])
def test_running_mean_equals_a_loop_over_its_neighbours(size, window):
    values = np.random.default_rng(size).normal(size=size)
    found = figures.running_mean(values, window)
    for place in range(size):
        low = place - window // 2
        near = values[max(0, low) : low + window]
        assert found[place] == pytest.approx(near.mean())


def test_spread_keeps_order_and_distance():
    placed = figures.spread([50.0, 10.0, 51.0, 50.5], 4.0)
    assert placed == [50.0, 10.0, 58.0, 54.0]
    assert figures.spread([], 1.0) == []
