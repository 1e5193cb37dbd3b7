# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Driving LLaMA Board in a browser, by the labels that a user reads."""

import re
from pathlib import Path
from typing import Any

from llamafactory_clinkd.webui.locales import texts


PATIENCE = 60_000
"""Milliseconds that a loaded machine may take to answer."""


class BoardPage:
    """The English page, unless :meth:`speak` was called."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.lang = "en"
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.get_by_role("button", name="BAdam configurations").wait_for()

    def words(self, name: str) -> str:
        """The label of one of our boxes."""
        return texts(self.lang)["elements"][name]["label"]

    def open(self, *groups: str) -> None:
        """Opens closed accordions of ours by their group's name."""
        for group in groups:
            title = re.compile(f"^{re.escape(texts(self.lang)['groups'][group])}")
            self.page.get_by_role("button", name=title).click()

    def field(self, label: str, within: Any = None) -> Any:
        """The first input under a label: gradio puts label, help and input into one ``<label>`` or block."""
        quoted = label.replace("'", "\\'")
        return (within or self.page).locator(
            f"xpath=(.//span[normalize-space()='{quoted}']/ancestor::*[.//input or .//textarea][1]"
            "//*[self::input or self::textarea])[1]"
        )

    def box(self, name: str) -> Any:
        """One of our boxes."""
        return self.field(self.words(name))

    def fill(self, label: str, value: str, within: Any = None) -> None:
        """Fills a text box."""
        field = self.field(label, within)
        field.fill(value)
        field.blur()

    def choose(self, label: str, value: str, within: Any = None) -> None:
        """Chooses in a dropdown, typing as a user does."""
        field = self.field(label, within)
        field.click()
        field.fill(value)
        field.press("Enter")
        field.blur()

    def press(self, name: str) -> None:
        """Presses a button of the Train tab."""
        self.page.get_by_role("button", name=name, exact=True).first.click()

    def speak(self, lang: str) -> None:
        """Switches the language and waits for our labels."""
        from llamafactory.webui.locales import LOCALES

        self.choose(LOCALES["lang"][self.lang]["label"], lang)
        self.lang = lang
        title = texts(lang)["groups"]["clinkd"]
        self.page.get_by_text(title).first.wait_for(state="attached")  # in whatever tab

    def set_up_run(self, workspace: Path, output_dir: str, extra_args: str) -> None:
        """Fills in what a run of the tiny models needs."""
        self.choose("Model name", "Qwen2-VL-2B-Instruct")
        self.wait_for_value("Chat template", "qwen2_vl")
        self.fill("Model path", str(workspace / "student"))
        self.choose("Finetuning method", "full")
        self.fill("Data dir", str(workspace / "data"))
        self.choose("Dataset", "tiny_train")
        self.choose("Compute type", "fp32")
        self.page.get_by_role("button", name="Extra configurations").click()
        self.fill("Extra arguments", extra_args)
        self.choose("Output dir", output_dir)
        self.open("clinkd")
        self.box("use_clinkd").check()

    def load_model(self, folder: Path) -> Any:
        """Loads a model of a folder in the Chat tab; returns the tab's panel."""
        self.choose("Model name", "Qwen2-VL-2B-Instruct")
        self.wait_for_value("Chat template", "qwen2_vl")
        self.fill("Model path", str(folder))
        self.choose("Finetuning method", "full")
        self.page.get_by_role("tab", name="Chat").click()
        tab = self.page.get_by_role("tabpanel").filter(visible=True).first  # it has tabs of its own
        submit = tab.get_by_role("button", name="Submit", exact=True)
        if not submit.is_visible():  # it is loaded for every browser at once
            tab.get_by_role("button", name="Load model", exact=True).click()
        submit.wait_for()
        return tab

    def look(self, width: int, scheme: str) -> None:
        """Changes the window's width and the colour scheme, as gradio's own settings do."""
        self.page.set_viewport_size({"width": width, "height": 1000})
        self.page.evaluate("dark => document.body.classList.toggle('dark', dark)", scheme == "dark")
        self.page.wait_for_timeout(800)  # colours change by and by, and a table measures its columns anew

    def close_messages(self) -> None:
        """Closes every message in the corner."""
        self.page.evaluate("document.querySelectorAll('[data-testid=toast-close]').forEach(cross => cross.click())")
        self.page.get_by_test_id("toast-close").first.wait_for(state="detached")

    def fill_query(self, tab: Any, text: str) -> None:
        """Writes a question."""
        tab.get_by_placeholder("Input...").fill(text)

    def wait_for_value(self, label: str, value: str) -> None:
        """Waits until an input under a label has a value."""
        self.page.wait_for_function(
            "([label, value]) => [...document.querySelectorAll('input, textarea')].some(e => e.value === value &&"
            " e.closest('label, .block')?.innerText.trim().startsWith(label))",
            arg=[label, value],
        )

    def wait_for_text(self, text: str | re.Pattern[str]) -> None:
        """Waits until a visible element has the text, or one that the pattern finds."""
        self.page.get_by_text(text).filter(visible=True).first.wait_for()

    def wait_for_text_anywhere(self, text: str) -> None:
        """Waits until a text, whose backticks may have become markup, can be read on the page."""
        self.page.wait_for_function(
            "text => document.body.innerText.replaceAll('`', '').replaceAll(/\\s+/g, ' ').includes(text)", arg=text
        )

    def text(self) -> str:
        """Everything that can be read on the page."""
        return self.page.locator("body").inner_text()
