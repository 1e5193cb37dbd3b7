# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Loading a ClinKD checkpoint in the Chat tab: the page says which positions and images it got, or why it failed."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from ..rope.binding import rope_settings
from .locales import texts


def with_positions_told(stock: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
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
