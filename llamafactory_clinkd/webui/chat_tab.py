# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The accordion of the Chat tab: candidates with scores (SASG), and the answer's boxes drawn on the image."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr
from PIL import Image, ImageDraw, ImageFont

from ..attention.answer_attention import box_frame, picture_inputs
from ..select import load_scorer, select_row
from ..utils.boxes import parse_boxes, to_thousandths
from ..utils.pixels import rgb_pixels
from .accordion import create_component
from .chat_model import generate_candidates, positions_note
from .locales import texts
from .recipe_keys import check_keys, localise_problem, to_key


logger = logging.getLogger(__name__)

OPTIONS = ("sasg_candidates", "sasg_mode", "sasg_region", "sasg_scorer")  # also elements of the Train tab
SETTINGS = ("max_new_tokens", "top_p", "temperature", "skip_special_tokens")  # LLaMA Board's elements
cached_scorer = functools.lru_cache(maxsize=1)(load_scorer)


class InvalidQuestionError(ValueError):
    """A question that cannot be answered; the message is for the page, in its language."""


def create_chat_box(stock: Callable[..., Any], engine: Any, visible: bool = False) -> Any:
    """Wraps ``create_chat_box``: adds the accordion at its end, which the manager does not know and never saves."""
    chatbot, messages, elements = stock(engine, visible)
    with elements["chat_box"]:
        _ChatAccordion(engine).wire(chatbot, messages, elements)
    return chatbot, messages, elements


class _ChatAccordion:
    """The components of the accordion and their events."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        words = texts("en")["chat"]
        with gr.Accordion(words["title"], open=False) as self.accordion:
            self.note = gr.Markdown(visible=False)
            with gr.Row():
                self.options = [create_component(name, interactive=True) for name in OPTIONS[:-1]]
            self.options.append(create_component(OPTIONS[-1], interactive=True))
            with gr.Row():
                self.answer_button = gr.Button(words["answer"], variant="primary")
                self.draw_button = gr.Button(words["draw"])
            widths = ["56px", "64px", "84px", "34%"]  # numbers stay on one line on a phone
            self.table = gr.Dataframe(
                visible=False, interactive=False, wrap=True, datatype="str", column_widths=widths
            )
            self.picture = gr.Image(visible=False, interactive=False, type="pil", format="png", height=480)
            self.content = gr.State(None)  # {"row", "boxes", "frame"} shown, for a change of language

    def wire(self, chatbot: Any, messages: Any, elements: dict[str, Any]) -> None:
        """Connects the events to LLaMA Board's chat box."""
        lang, scorer = self.engine.manager.get_elem_by_id("top.lang"), self.options[-1]
        results = [self.picture, self.table, self.content]
        names = ("role", "query", "image", "system", "tools", "escape_html", *SETTINGS)
        inputs = [chatbot, messages, lang, *(elements[name] for name in names), *self.options]
        outputs = [chatbot, messages, elements["query"], *results]
        self.answer_button.click(self.answer, inputs, outputs)
        if (first := getattr(self.engine, "first_question", None)) is not None:  # of `clinkd demo --chat`
            self.accordion.open = True
            gr.context.Context.root_block.load(
                lambda: first, outputs=[elements["image"], elements["query"], scorer]
            ).then(self.answer, inputs, outputs).then(None, js="() => window.scrollTo(0, document.body.scrollHeight)")
        self.draw_button.click(self.draw, [messages, lang, elements["image"]], results)
        elements["clear_btn"].click(lambda: (_hidden_picture(), gr.Dataframe(visible=False), None), outputs=results)
        for event in (self.accordion.expand, lang.change):
            event(self.describe_positions, [lang], [self.note], queue=False, show_progress="hidden")
        components = [self.accordion, self.answer_button, self.draw_button, *self.options, self.picture, self.table]

        def update_language(*values: Any) -> list[Any]:
            updates = translate(*values)
            return [type(component)(**update) for component, update in zip(components, updates, strict=True)]

        inputs = [lang, scorer, self.content]
        gr.on([lang.change, scorer.change], update_language, inputs, components, queue=False, show_progress="hidden")

    def answer(
        self, history, conversation, lang, role, query, image, system, tools, escape, *values
    ) -> Iterator[tuple[Any, ...]]:
        """Answers the question with the best of several candidates."""
        settings = dict(zip(SETTINGS, values[: len(SETTINGS)], strict=True))
        options = dict(zip(OPTIONS, values[len(SETTINGS) :], strict=True))
        chatter = self.engine.chatter
        try:
            options, scorer = check_question(chatter, options, query, image, lang)
        except InvalidQuestionError as error:
            gr.Warning(str(error), duration=20)
            yield (gr.skip(),) * 6
            return
        new_history, new_conversation, empty_query = chatter.append(history, conversation, role, query, escape)
        yield new_history, conversation, empty_query, gr.skip(), gr.skip(), gr.skip()
        try:
            settings |= {"count": options["sasg_candidates"], "mode": options["sasg_mode"]}
            candidates = generate_candidates(chatter, new_conversation, system, tools, image, **settings)
            row = {"image": None if image is None else "uploaded", "question": query, "candidates": candidates}
            row = select_row(row, scorer, image, region=options["sasg_region"])
        except Exception as error:  # of any model or scorer: the page gets its question back, and the reason
            logger.exception("The Chat tab's candidates failed.")
            gr.Warning(f"{texts(lang)['chat']['failed']}: {error}", duration=None)
            yield history, conversation, query, gr.skip(), gr.skip(), gr.skip()
            return
        text = row["response"]
        html = text.replace("<", "&lt;").replace(">", "&gt;") if escape else text
        new_history = [*new_history, {"role": "assistant", "content": html}]
        new_conversation = [*new_conversation, {"role": "assistant", "content": text}]
        yield new_history, new_conversation, empty_query, *_show(row, text, image, lang, chatter.engine)

    def draw(self, conversation, lang, image) -> tuple[Any, ...]:
        """Draws the boxes of the last answer, generated by LLaMA Board or here."""
        words, answers = texts(lang)["chat"], [turn["content"] for turn in conversation if turn["role"] == "assistant"]
        if image is None or not answers:
            gr.Warning(words["no_image" if image is None else "no_answer"])
            return (gr.skip(),) * 3
        return _show(None, answers[-1], image, lang, self.engine.chatter.engine)

    def describe_positions(self, lang) -> Any:
        """The note on the positions of the loaded checkpoint."""
        note = positions_note(self.engine.chatter.engine, lang)
        return gr.Markdown(note, visible=note is not None)


def check_question(
    chatter: Any, values: dict[str, Any], query: str, image: Image.Image | None, lang: str | None
) -> tuple[dict[str, Any], Any]:
    """The options as recipe keys, and the loaded scorer.

    Raises:
        InvalidQuestionError: If an option is invalid, or question, image, engine or scorer are missing.
    """
    words = texts(lang)["chat"]
    options = {name: to_key(name, value) for name, value in values.items()}
    try:
        check_keys({"use_clinkd": True, "clinkd_phases": "predict", **options})
    except ValueError as error:
        raise InvalidQuestionError(localise_problem(str(error), lang)) from error
    if not (query or "").strip():
        raise InvalidQuestionError(words["no_question"])
    if getattr(chatter.engine, "name", None) != "huggingface":
        raise InvalidQuestionError(words["not_huggingface"])
    try:
        scorer = cached_scorer(options["sasg_scorer"])
    except RuntimeError as error:
        label = texts(lang)["elements"]["sasg_scorer"]["label"]
        raise InvalidQuestionError(f"{label}: {error}") from error
    if scorer.reads_images and image is None:
        raise InvalidQuestionError(words["no_image_to_score"])
    return options, scorer


def _show(
    row: dict[str, Any] | None, answer: str, image: Image.Image | None, lang: str | None, engine: Any
) -> tuple[Any, ...]:
    """Picture, table and the state behind them."""
    boxes, picture, frame = [list(box) for box in parse_boxes(answer)], _hidden_picture(), (1000, 1000)
    if image is not None:
        frame = box_frame(engine.model, lambda: picture_inputs(engine, image.convert("RGB"), [])) if boxes else frame
        drawn = draw_boxes(image, to_thousandths(boxes, frame))
        picture = gr.Image(drawn, visible=True, label=_boxes_label(len(boxes), frame, lang), show_label=True)
    table = gr.Dataframe(visible=False) if row is None else gr.Dataframe(**candidates_table(row, lang))
    return picture, table, {"row": row, "boxes": len(boxes), "frame": frame}


def _hidden_picture() -> Any:
    return gr.Image(visible=False, value=None)


def _boxes_label(count: int, frame: tuple[float, float], lang: str | None) -> str:
    """How many boxes the answer has, and what their numbers are taken as."""
    words, (width, height) = texts(lang)["chat"], map(round, frame)
    unit = words["boxes_thousandths" if (width, height) == (1000, 1000) else "boxes_resized"]
    return words["boxes"].format(count=count, unit=unit.format(width=width, height=height))


def candidates_table(row: dict[str, Any], lang: str | None) -> dict[str, Any]:
    """Properties of the table: the best candidate first, the scorer's name as label."""
    words = texts(lang)["chat"]

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    ranked = sorted(row["candidates"], key=lambda candidate: candidate["rank"])
    data = [[str(c["rank"]), number(c["score"]), number(c["logprob"]), c["text"]] for c in ranked]
    headers = [words[name] for name in ("rank", "score", "logprob", "text")]
    label = words["scored_by"].format(scorer=row["scorer"])
    return {"value": {"headers": headers, "data": data}, "label": label, "show_label": True, "visible": True}


def translate(lang: str | None, scorer: str, content: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Properties in a language of the accordion, the buttons, the options, the picture and the table."""
    catalogue = texts(lang)
    words = catalogue["chat"]
    updates = [{"label": words["title"]}, {"value": words["answer"]}, {"value": words["draw"]}]
    for name in OPTIONS:
        unused = name == "sasg_region" and scorer in ("logprob", "consensus")
        info = catalogue["reasons"]["needs_image_scorer"] if unused else catalogue["elements"][name]["info"]
        updates.append({"label": catalogue["elements"][name]["label"], "info": info, "interactive": not unused})
    updates.append({"label": _boxes_label(content["boxes"], content["frame"], lang)} if content else {})
    updates.append(candidates_table(content["row"], lang) if content and content["row"] else {})
    return updates


MIN_SIDE = 768  # pixels: the least length of a picture's longer side, so that lines stay thin on small scans
COLOURS = ("#ffd400", "#00d9ff", "#ff5fd2", "#7dff5f", "#ff8a3d", "#b79bff")  # no grey: scans are grey


def draw_boxes(image: Image.Image, boxes: Sequence[Sequence[float]]) -> Image.Image:
    """An RGB copy of ``image``, enlarged to :data:`MIN_SIDE` if smaller, with each box's outline, numbered if several.

    ``boxes`` are ``x1, y1, x2, y2`` in thousandths of the image's width and height. A box outside the image is drawn
    along the edge; a box without area is a line or a point.
    """
    scale = max(1.0, MIN_SIDE / max(image.size))
    size = [max(1, round(side * scale)) for side in image.size]
    picture = rgb_pixels(image).resize(size, Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(picture)
    line = max(3, max(size) // 250)
    for number, box in enumerate(boxes, start=1):
        colour = COLOURS[(number - 1) % len(COLOURS)]
        left, right = sorted(_to_pixel(box[i], picture.width) for i in (0, 2))
        top, bottom = sorted(_to_pixel(box[i], picture.height) for i in (1, 3))
        canvas.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black", width=line + 2)
        canvas.rectangle((left, top, right, bottom), outline=colour, width=line)
        if len(boxes) > 1:
            _draw_label(canvas, str(number), (left + line, top + line), colour, size=6 * line)
    return picture


def _to_pixel(thousandths: float, side: int) -> int:
    return min(max(round(thousandths * side / 1000), 0), side - 1)


def _draw_label(canvas: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], colour: str, size: int) -> None:
    """Black text on a patch of the box's colour."""
    font, margin = ImageFont.load_default(size), size // 6
    _, _, right, bottom = canvas.textbbox(corner, text, font=font)
    canvas.rectangle((*corner, right + margin * 2, bottom + margin), fill=colour)
    canvas.text((corner[0] + margin, corner[1]), text, fill="black", font=font)
