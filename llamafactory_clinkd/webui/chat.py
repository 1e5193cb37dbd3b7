# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The accordion of the Chat tab: candidates with scores (SASG), and the answer's boxes on the picture."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from ..utils.boxes import parse_boxes
from .accordion import component
from .chat_candidates import draw_boxes, generate_candidates
from .chat_texts import OPTIONS, Refused, boxes_label, check, escaped, positions_note, table_of, translate
from .locales import texts


logger = logging.getLogger(__name__)

SETTINGS = ("max_new_tokens", "top_p", "temperature", "skip_special_tokens")
"""Stock's own boxes that steer our generation too."""


class Parts(NamedTuple):
    """The components of the accordion.

    Attributes:
        accordion: Around everything.
        note: Which positions the loaded checkpoint got.
        options: Box name -> component.
        answer: Button: answers the question with the best of several candidates.
        draw: Button: draws the boxes of the last answer, whoever gave it.
        picture: With the boxes.
        table: The candidates.
        shown: What the two show, for another language: ``{"row", "boxes"}``.
    """

    accordion: Any
    note: Any
    options: dict[str, Any]
    answer: Any
    draw: Any
    picture: Any
    table: Any
    shown: Any


def create_chat_box(
    engine: Any,
    visible: bool = False,
    *,
    stock: Callable[..., Any],
    load_scorer: Callable[[str], Any],
    rank: Callable[..., Any],
) -> Any:
    """Builds stock's chat box with the accordion at its end.

    Args:
        engine: LLaMA Board's ``Engine``.
        visible: As stock's.
        stock: Its ``create_chat_box``.
        load_scorer: Scorer by name; its errors say how to get it.
        rank: Ranks the candidates of one row (``select.select_row``).

    Returns:
        What stock's returns: nothing of ours is registered with the manager, saved or sent with stock's events.
    """
    chatbot, messages, elements = stock(engine, visible)
    with elements["chat_box"]:
        parts = _build()
    _wire(parts, engine, chatbot, messages, elements, load_scorer, rank)
    return chatbot, messages, elements


def _build() -> Parts:
    words = texts("en")["chat"]
    with gr.Accordion(words["title"], open=False) as accordion:
        note = gr.Markdown(visible=False)
        with gr.Row():
            options = {name: component(name, interactive=True) for name in OPTIONS[:-1]}
        options[OPTIONS[-1]] = component(OPTIONS[-1], interactive=True)
        with gr.Row():
            answer = gr.Button(words["answer"], variant="primary")
            draw = gr.Button(words["draw"])
        table = gr.Dataframe(
            visible=False, interactive=False, wrap=True, datatype="str", column_widths=["8%", "10%", "15%", "67%"]
        )
        picture = gr.Image(visible=False, interactive=False, type="pil", format="png", height=480)
        shown = gr.State(None)
    return Parts(accordion, note, options, answer, draw, picture, table, shown)


def _wire(
    parts: Parts,
    engine: Any,
    chatbot: Any,
    messages: Any,
    elements: dict[str, Any],
    load_scorer: Callable[[str], Any],
    rank: Callable[..., Any],
) -> None:
    lang = engine.manager.get_elem_by_id("top.lang")
    results = [parts.picture, parts.table, parts.shown]

    def answer(history, past, language, role, query, image, system, tools, escape, *rest) -> Iterator[tuple[Any, ...]]:
        settings = dict(zip(SETTINGS, rest[: len(SETTINGS)], strict=True))
        values = dict(zip(OPTIONS, rest[len(SETTINGS) :], strict=True))
        try:
            options, scorer = check(engine.chatter, values, query, image, language, load_scorer)
        except Refused as reason:
            gr.Warning(str(reason), duration=20)
            yield (gr.skip(),) * 6
            return
        asked, conversation, emptied = engine.chatter.append(history, past, role, query, escape)
        yield asked, past, emptied, gr.skip(), gr.skip(), gr.skip()
        try:
            candidates = generate_candidates(
                engine.chatter,
                conversation,
                system,
                tools,
                image,
                count=options["sasg_candidates"],
                mode=options["sasg_mode"],
                **settings,
            )
            row = {"image": None if image is None else "uploaded", "candidates": candidates}
            row = rank(row, scorer, image, region=options["sasg_region"])
        except Exception as error:  # whatever model or scorer raise: the page gets its question back, and the reason
            logger.exception("The Chat tab's candidates failed.")
            gr.Warning(f"{texts(language)['chat']['failed']}: {error}", duration=None)
            yield history, past, query, gr.skip(), gr.skip(), gr.skip()
            return
        text = row["response"]
        shown = {"row": row, "boxes": [list(box) for box in parse_boxes(text)]}
        said = [*asked, {"role": "assistant", "content": escaped(text) if escape else text}]
        yield said, [*conversation, {"role": "assistant", "content": text}], emptied, *show(shown, image, language)

    def draw(past, language, image) -> tuple[Any, ...]:
        words, answers = texts(language)["chat"], [turn for turn in past if turn["role"] == "assistant"]
        if image is None or not answers:
            gr.Warning(words["no_image" if image is None else "no_answer"])
            return (gr.skip(),) * 3
        boxes = [list(box) for box in parse_boxes(answers[-1]["content"])]
        return show({"row": None, "boxes": boxes}, image, language)

    parts.answer.click(
        answer,
        [chatbot, messages, lang, elements["role"], elements["query"], elements["image"], elements["system"]]
        + [
            elements["tools"],
            elements["escape_html"],
            *(elements[name] for name in SETTINGS),
            *parts.options.values(),
        ],
        [chatbot, messages, elements["query"], *results],
    )
    parts.draw.click(draw, [messages, lang, elements["image"]], results)
    elements["clear_btn"].click(lambda: (*hidden(), None), outputs=results)

    def positions(language) -> Any:
        note = positions_note(engine.chatter.engine, language)
        return gr.Markdown(note, visible=note is not None)

    parts.accordion.expand(positions, [lang], [parts.note], queue=False, show_progress="hidden")
    lang.change(positions, [lang], [parts.note], queue=False, show_progress="hidden")

    translated = [parts.accordion, parts.answer, parts.draw, *parts.options.values(), parts.picture, parts.table]

    def retranslate(language, scorer, shown) -> list[Any]:
        updates = translate(language, scorer, shown)
        return [type(part)(**update) for part, update in zip(translated, updates, strict=True)]

    gr.on(
        [lang.change, parts.options["sasg_scorer"].change],
        retranslate,
        [lang, parts.options["sasg_scorer"], parts.shown],
        translated,
        queue=False,
        show_progress="hidden",
    )


def show(shown: dict[str, Any], image: Image.Image | None, lang: str | None) -> tuple[Any, Any, dict[str, Any]]:
    """Picture, table and what they show."""
    picture = gr.Image(visible=False, value=None)
    if image is not None:
        picture = gr.Image(
            draw_boxes(image, shown["boxes"]), visible=True, label=boxes_label(shown["boxes"], lang), show_label=True
        )
    table = gr.Dataframe(visible=False) if shown["row"] is None else gr.Dataframe(**table_of(shown["row"], lang))
    return picture, table, shown


def hidden() -> tuple[Any, Any]:
    """Picture and table before the first answer."""
    return gr.Image(visible=False, value=None), gr.Dataframe(visible=False)
