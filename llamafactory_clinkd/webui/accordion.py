# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The accordion "ClinKD configurations" of the Train tab."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import gradio as gr

from .elements import BOXES, DRIVERS, GROUPS, inapplicable
from .locales import texts


TAB = "clinkd"


class Board(NamedTuple):
    """The built accordion.

    Attributes:
        accordion: Around everything, not rendered yet.
        groups: Group -> its accordion.
        boxes: Box name -> component.
    """

    accordion: Any
    groups: dict[str, Any]
    boxes: dict[str, Any]


def create_tab(engine: Any, stock: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Builds stock's Train tab with the accordion behind BAdam's.

    Args:
        engine: LLaMA Board's ``Engine``.
        stock: Its ``create_train_tab``.

    Returns:
        Stock's elements; ours are registered as tab ``clinkd``.
    """
    board = build()
    engine.manager.add_elems(TAB, {f"{name}_tab": group for name, group in board.groups.items()} | board.boxes)
    with more_base_elements(engine.manager, set(board.boxes.values())):
        elements = stock(engine)
    board.accordion.render()
    siblings = board.accordion.parent.children
    siblings.remove(board.accordion)
    siblings.insert(siblings.index(elements["badam_tab"]) + 1, board.accordion)
    _wire(board, engine, elements)
    return elements


def build() -> Board:
    """Makes the components, outside of any page."""
    groups, boxes = {}, {}
    with gr.Accordion(texts("en")["groups"][TAB], open=False, render=False) as groups[TAB]:
        for group, rows in GROUPS.items():
            with gr.Accordion(texts("en")["groups"][group], open=group == "procedure") as groups[group]:
                for row in rows:
                    with gr.Row():
                        for name in row:
                            boxes[name] = component(name, interactive=name == "use_clinkd")
    return Board(groups[TAB], groups, boxes)


def component(name: str, *, interactive: bool) -> Any:
    """A box as stock's kind of widget, in English until the page has told its language."""
    box = BOXES[name]
    common = {"value": box.default, **texts("en")["elements"][name], "interactive": interactive}
    if box.kind == "switch":
        return gr.Checkbox(**common)
    if box.kind == "choice":
        return gr.Dropdown(choices=list(box.choices), **common)
    if box.kind == "phases":
        return gr.CheckboxGroup(choices=_phase_choices("en"), scale=2, **common)
    if box.kind == "datasets":
        return gr.Dropdown(multiselect=True, allow_custom_value=True, **common)
    if box.kind == "models":
        from llamafactory.extras.constants import SUPPORTED_MODELS

        return gr.Dropdown(choices=[*SUPPORTED_MODELS, "Custom"], **common)
    if box.kind == "fraction":
        return gr.Slider(minimum=0, maximum=1, step=0.01, **common)
    if box.kind == "number":
        return gr.Number(**common)
    return gr.Textbox(**common)


def _phase_choices(lang: str | None) -> list[tuple[str, str]]:
    return [(name, phase) for phase, name in texts(lang)["phases"].items()]


def describe(lang: str | None, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Label, help and whether it can be changed, of every group and box.

    Args:
        lang: The page's language.
        values: The values of :data:`.elements.DRIVERS`.

    Returns:
        Name -> properties of the component; the help of a box that nothing would read is the reason.
    """
    catalogue, unused = texts(lang), inapplicable(values)
    updates = {f"{name}_tab": {"label": label} for name, label in catalogue["groups"].items()}
    for name, words in catalogue["elements"].items():
        applies = name == "use_clinkd" or (values["use_clinkd"] and name not in unused)
        tells_reason = values["use_clinkd"] and name in unused
        info = catalogue["reasons"][unused[name]] if tells_reason else words["info"]
        updates[name] = {"label": words["label"], "info": info, "interactive": bool(applies)}
    updates["clinkd_phases"]["choices"] = _phase_choices(lang)
    return updates


@contextmanager
def more_base_elements(manager: Any, more: set[Any]) -> Iterator[None]:
    """Lets a stock tab take our boxes for inputs of preview, start, save and load."""
    stock = manager.get_base_elems
    manager.get_base_elems = lambda: stock() | more
    try:
        yield
    finally:
        del manager.get_base_elems


def _wire(board: Board, engine: Any, elements: dict[str, Any]) -> None:
    from llamafactory.webui.common import get_model_path
    from llamafactory.webui.control import list_datasets

    components = {f"{name}_tab": group for name, group in board.groups.items()} | board.boxes
    lang = engine.manager.get_elem_by_id("top.lang")

    def redescribe(language: str | None, *values: Any) -> dict[Any, Any]:
        updates = describe(language, dict(zip(DRIVERS, values, strict=True)))
        return {components[name]: components[name].__class__(**update) for name, update in updates.items()}

    gr.on(
        [lang.change, *(board.boxes[name].change for name in DRIVERS)],
        redescribe,
        [lang, *(board.boxes[name] for name in DRIVERS)],
        list(components.values()),
        queue=False,
        show_progress="hidden",
    )
    board.boxes["teacher_name"].input(
        get_model_path, [board.boxes["teacher_name"]], [board.boxes["ref_model"]], queue=False
    )
    test_data = board.boxes["eval_dataset"]
    test_data.focus(list_datasets, [elements["dataset_dir"], elements["training_stage"]], [test_data], queue=False)
