# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What the Chat tab's accordion says: refusals, the table of candidates, every text in another language."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

from ..rope.binding import rope_settings
from .locales import texts
from .recipe_boxes import check_keys, in_language, to_key


OPTIONS = ("sasg_candidates", "sasg_mode", "sasg_region", "sasg_scorer")

"""Boxes of the Train tab that the Chat tab has too."""


class Refused(ValueError):
    """A question that cannot be answered as it stands; the message is for the page, in its language."""


def check(
    chatter: Any,
    values: dict[str, Any],
    query: str,
    image: Image.Image | None,
    lang: str | None,
    load_scorer: Callable[[str], Any],
) -> tuple[dict[str, Any], Any]:
    """The options as recipe keys and the loaded scorer, before anything is asked.

    Raises:
        Refused: For whatever stands in the way of an answer.
    """
    words = texts(lang)["chat"]
    options = {name: to_key(name, value) for name, value in values.items()}
    try:
        check_keys({"use_clinkd": True, "clinkd_phases": "predict", **options})
    except ValueError as error:
        raise Refused(in_language(str(error), lang)) from error
    if not (query or "").strip():
        raise Refused(words["no_question"])
    if getattr(chatter.engine, "name", None) != "huggingface":
        raise Refused(words["not_huggingface"])
    try:
        scorer = load_scorer(options["sasg_scorer"])
    except RuntimeError as error:
        label = texts(lang)["elements"]["sasg_scorer"]["label"]
        raise Refused(f"{label}: {error}") from error
    if scorer.reads_images and image is None:
        raise Refused(words["no_image_to_score"])
    return options, scorer


def boxes_label(boxes: list[Any], lang: str | None) -> str:
    """What stands over the picture."""
    return texts(lang)["chat"]["boxes"].format(count=len(boxes))


def table_of(row: dict[str, Any], lang: str | None) -> dict[str, Any]:
    """Properties of the table: best candidate first, the scorer's name over it."""
    words = texts(lang)["chat"]
    ranked = sorted(row["candidates"], key=lambda candidate: candidate["rank"])
    data = [[str(c["rank"]), _number(c["score"]), _number(c["logprob"]), c["text"]] for c in ranked]
    headers = [words[name] for name in ("rank", "score", "logprob", "text")]
    label = words["scored_by"].format(scorer=row["scorer"])
    return {"value": {"headers": headers, "data": data}, "label": label, "show_label": True, "visible": True}


def translate(lang: str | None, scorer: str, shown: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Properties in a language of the accordion, the buttons, the options, the picture and the table."""
    catalogue = texts(lang)
    words = catalogue["chat"]
    updates = [{"label": words["title"]}, {"value": words["answer"]}, {"value": words["draw"]}]
    for name in OPTIONS:
        unused = name == "sasg_region" and scorer == "logprob"
        info = catalogue["reasons"]["needs_image_scorer"] if unused else catalogue["elements"][name]["info"]
        updates.append({"label": catalogue["elements"][name]["label"], "info": info, "interactive": not unused})
    updates.append({"label": boxes_label(shown["boxes"], lang)} if shown else {})
    updates.append(table_of(shown["row"], lang) if shown and shown["row"] else {})
    return updates


def escaped(text: str) -> str:
    """An answer as stock shows it with "Escape HTML tags"."""
    return text.replace("<", "&lt;").replace(">", "&gt;")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def with_positions_note(stock: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
    """``WebChatModel.load_model`` whose last words also name what ``clinkd_config.json`` made of the model.

    A model that cannot be served right (see ``refuse_foreign_engine``) is answered with the reason, where stock's page
    shows the word "Error" alone.
    """

    @functools.wraps(stock)
    def load_model(self: Any, data: dict[Any, Any]) -> Iterator[str]:
        lang, loaded_before, told = data[self.manager.get_elem_by_id("top.lang")], self.loaded, ""
        try:
            for told in stock(self, data):
                yield told
        except ValueError as error:
            import gradio as gr

            problem = f"{texts(lang)['chat']['not_loaded']}: {error}"
            gr.Warning(problem, duration=None)
            yield problem
            return
        note = positions_note(self.engine, lang) if self.loaded and not loaded_before else None
        if note is not None:
            yield f"{told} {note}"

    return load_model


def positions_note(engine: Any, lang: str | None) -> str | None:
    """The rotary positions and images that a loaded chat engine uses; ``None`` for a model without saved ones."""
    if getattr(engine, "model", None) is None:
        return None
    try:
        settings = rope_settings(engine.model)
    except TypeError:  # another architecture
        return None
    if settings is None:
        return None
    words = texts(lang)["chat"]
    squared = hasattr(engine.template.mm_plugin, "clinkd_limits")
    return words["positions"].format(
        variant=settings["variant"], images=words["square_images" if squared else "images_as_they_are"]
    )
