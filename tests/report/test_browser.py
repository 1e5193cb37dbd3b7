# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The page in a real browser: no error, nothing fetched, boxes on their images, both schemes, narrow and wide."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from chromium import take_pictures

from llamafactory_clinkd.report import build_report
from llamafactory_clinkd.utils.io import read_json, write_json

from .page_reader import assert_pdf


LIGHT, DARK = "rgb(242, 245, 247)", "rgb(14, 19, 23)"
A4 = 718  # CSS pixels between margins of 10 mm
TABLES_WIDER_THAN_THEIR_FRAME = """[...document.querySelectorAll("table")]
    .filter(table => table.scrollWidth > table.parentElement.clientWidth + 1)
    .map(table => [table.className, table.scrollWidth, table.parentElement.clientWidth])"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reports(run_dir, sweep_dirs, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    (folder / "bare" / "clinkd").mkdir(parents=True)
    runs = {"one": [run_dir], "three": sweep_dirs, "bare": [folder / "bare"]}
    return {name: build_report(dirs, folder / f"{name}.html") for name, dirs in runs.items()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "three", "bare"])
def test_page_in_a_browser(chromium, reports, tmp_path, name, scheme):
    page = chromium.new_page(viewport={"width": 360, "height": 900}, color_scheme=scheme)
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(reports[name].as_uri())
    page.wait_for_function("[...document.images].every(image => image.complete)")

    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (DARK if scheme == "dark" else LIGHT)
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.evaluate("document.querySelectorAll('.card .outline').length > 0") is (name != "bare")
    for width in (360, 390, 768, 1440, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert (width, wider, page.evaluate(BOXES_OFF_THEIR_IMAGE)) == (width, 0, 0)
        if width in (390, 1440):
            take_pictures(page, tmp_path, f"{name}-{scheme}-{width}")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == LIGHT
    page.set_viewport_size({"width": A4, "height": 1000})
    assert page.evaluate(TABLES_WIDER_THAN_THEIR_FRAME) == []  # what is wider is cut off on paper
    page.close()


def test_the_main_table_has_numbers_on_a_phone_and_what_is_wider_a_hint(chromium, sweep_dirs, tmp_path):
    folder = tmp_path / "run"
    metrics = read_json(sweep_dirs[0] / "clinkd" / "metrics.json")
    blind = {f"blind_{task}": {"macro": 0.5, "task": task} for task in ("VG", "ROC", "RC", "MIA")}
    source = "1,320 rows of demo_train, with the structure and box of each (facts_train.jsonl)"
    write_json(folder / "clinkd" / "metrics.json", metrics | {"baselines": blind, "baselines_from": source})
    report = build_report([folder, sweep_dirs[1]], tmp_path / "r.html", names=["after distillation", "weak"])
    page = chromium.new_page(viewport={"width": 390, "height": 900})
    page.goto(report.as_uri())
    table = page.locator("[aria-label='Scores of all methods']")
    ends = table.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => row.cells[2].getBoundingClientRect().right)"
    )
    assert max(ends) < 390  # two scores of every row
    for frame, is_wider, hint in page.evaluate("""[...document.querySelectorAll(".scroll:has(> table)")].filter(
        frame => frame.clientWidth).map(frame => [frame.ariaLabel, frame.scrollWidth > frame.clientWidth + 1,
        frame.nextElementSibling.querySelector(".more").getClientRects().length > 0])"""):
        assert is_wider == hint, frame
    assert "cut" in table.get_attribute("class")
    table.evaluate("frame => { frame.scrollLeft = frame.scrollWidth; }")
    page.wait_for_function("!document.querySelector('.scroll').classList.contains('cut')")
    page.set_viewport_size({"width": 1440, "height": 900})
    page.wait_for_function("document.querySelector('.more').hidden")
    below = page.evaluate("""[...document.querySelectorAll(".pair > .downloads")].map(line => [
        line.getBoundingClientRect().left, line.previousElementSibling.getBoundingClientRect().left])""")
    assert below and all(line == table for line, table in below)
    page.close()


def test_scheme_button_goes_through_system_light_and_dark(chromium, reports):
    page = chromium.new_page(color_scheme="dark")
    page.goto(reports["bare"].as_uri())
    seen = []
    for _ in range(3):
        page.click("#scheme")
        seen.append((page.inner_text("#scheme"), page.evaluate("getComputedStyle(document.body).backgroundColor")))
    page.close()
    assert seen == [("Scheme: light", LIGHT), ("Scheme: dark", DARK), ("Scheme: system", DARK)]


def test_filters_show_the_cards_of_a_task_and_of_wrong_answers(chromium, reports):
    page = chromium.new_page()
    page.goto(reports["one"].as_uri())
    form, shown = page.locator("#examples .filters"), page.locator("#examples .card:visible")
    everything = shown.count()
    form.locator("[name=task]").select_option("VG")
    form.locator("[name=answer]").select_option("wrong")
    cards = shown.evaluate_all("cards => cards.map(card => [card.dataset.task, card.dataset.answer])")
    assert 0 < len(cards) < everything and set(map(tuple, cards)) == {("VG", "wrong")}
    assert page.locator("#examples h3:visible").count() == 1 and f"{len(cards)} of {everything}" in form.inner_text()
    page.locator("#corrections .filters [name=status]").first.select_option("corrected")
    assert set(page.locator(".change:visible").evaluate_all("rows => rows.map(row => row.dataset.status)")) == {
        "corrected"
    }
    page.close()


def test_tables_and_figures_are_saved(chromium, reports, tmp_path):
    page = chromium.new_page()
    page.goto(reports["one"].as_uri())
    for label, start in (
        ("table 1 as CSV", '"'),
        ("table 1 as LaTeX", "\\begin{tabular}{lrr"),
        ("figure 1 as SVG", "<svg"),
    ):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=f"Save {label}", exact=True).click()
        waiting.value.save_as(tmp_path / "saved")
        text = (tmp_path / "saved").read_text(encoding="utf-8")
        assert text.startswith(start) and "var(--" not in text
    ElementTree.fromstring(text)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save figure 1 as PDF", exact=True).click()
    waiting.value.save_as(tmp_path / "saved")
    assert_pdf((tmp_path / "saved").read_bytes())
    page.close()


def test_pictures_are_there_in_print_and_small_ones_fill_their_card(chromium, reports):
    page = chromium.new_page(viewport={"width": 1280, "height": 700})
    page.goto(reports["one"].as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    page.emulate_media(media="screen")
    page.evaluate("""() => {
      for (const stack of document.querySelectorAll('.stack')) stack.querySelector('img').removeAttribute('width');
    }""")
    heights = page.evaluate("[...document.querySelectorAll('.stack img')].map(image => image.getBoundingClientRect())")
    assert all(rect["height"] > 240 or rect["width"] > 250 for rect in heights)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(chromium, reports, scheme):
    page = chromium.new_page(color_scheme=scheme)
    page.goto(reports["one"].as_uri())
    faint = page.evaluate(FAINT_TEXT)
    page.close()
    assert faint == []


# Overlays that do not cover their image exactly, and boxes whose place differs from their thousandths by over a pixel.
BOXES_OFF_THEIR_IMAGE = """() => {
  let off = 0;
  for (const stack of document.querySelectorAll('.stack')) {
    const image = stack.querySelector('img').getBoundingClientRect();
    const over = stack.querySelector('svg').getBoundingClientRect();
    for (const side of ['left', 'top', 'width', 'height']) off += Math.abs(image[side] - over[side]) > 0.6;
    for (const path of stack.querySelectorAll('.outline')) {
      const [x1, y1, x2, y2] = path.getAttribute('d').match(/-?[\\d.]+/g).map(Number);
      const box = path.getBoundingClientRect();
      off += Math.abs(box.left - (image.left + Math.min(x1, x2) / 1000 * image.width)) > 2.5;
      off += Math.abs(box.width - Math.abs(x2 - x1) / 1000 * image.width) > 5;
      off += Math.abs(box.height - Math.abs(y2 - y1) / 1000 * image.height) > 5;
    }
  }
  return off;
}"""

# Texts whose contrast with the nearest opaque background is below WCAG's 4.5 (3 for large or bold large text).
FAINT_TEXT = """() => {
  const rgb = colour => {
    const parts = colour.match(/[\\d.]+/g).map(Number);
    return colour.startsWith('color(srgb') ? parts.map((part, i) => i < 3 ? part * 255 : part) : parts;
  };
  const light = ([r, g, b]) => {
    const part = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.getClientRects().length || element.closest('svg, script, .skip')) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(rgb(style.color)), light(behind(element))].sort((x, y) => y - x);
    const needed = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if ((a + 0.05) / (b + 0.05) < needed) faint.push(`${text.slice(0, 30)}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
  }
  return [...new Set(faint)];
}"""
