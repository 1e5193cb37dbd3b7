# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The accordion "ClinKD configurations" of the Train tab, whose elements the Evaluate & Predict tab reads, too."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import gradio as gr

from ..utils.patching import patch_instance
from .elements import DRIVERS, ELEMENTS, GROUPS, TAB, unused_elements
from .locales import texts


def create_train_tab(stock: Callable[[Any], dict[str, Any]], engine: Any) -> dict[str, Any]:
    """Wraps ``create_train_tab``: builds the accordion after BAdam's, and registers its elements as tab ``clinkd``."""
    groups, boxes = _build()
    accordion, components = groups[TAB], {f"{name}_tab": group for name, group in groups.items()} | boxes
    engine.manager.add_elems(TAB, components)
    with _more_base_elements(engine.manager, set(boxes.values())):
        elements = stock(engine)
    accordion.render()
    siblings = accordion.parent.children
    siblings.remove(accordion)
    siblings.insert(siblings.index(elements["badam_tab"]) + 1, accordion)
    _wire(components, engine, elements)
    return elements


def create_eval_tab(stock: Callable[[Any], dict[str, Any]], engine: Any) -> dict[str, Any]:
    """Wraps ``create_eval_tab``: its preview and start also read the elements of the accordion."""
    boxes = {engine.manager.get_elem_by_id(f"{TAB}.{name}") for name in ELEMENTS}
    with _more_base_elements(engine.manager, boxes):
        return stock(engine)


def _more_base_elements(manager: Any, components: set[Any]) -> AbstractContextManager[None]:
    """While a tab is built, makes ``components`` inputs of its preview, start, save and load."""
    stock = manager.get_base_elems
    return patch_instance(manager, "get_base_elems", lambda: stock() | components)


def _build() -> tuple[dict[str, Any], dict[str, Any]]:
    """The accordions by group and the input components by element, outside of any page."""
    groups, boxes = {}, {}
    with gr.Accordion(texts("en")["groups"][TAB], open=False, render=False) as groups[TAB]:
        for group, rows in GROUPS.items():
            with gr.Accordion(texts("en")["groups"][group], open=group == "procedure") as groups[group]:
                for row in rows:
                    with gr.Row():
                        for name in row:
                            boxes[name] = create_component(name, interactive=name == "use_clinkd")
    return groups, boxes


def create_component(name: str, *, interactive: bool) -> Any:
    """The gradio component of an element, in English until the page reports its language."""
    element = ELEMENTS[name]
    common = {"value": element.default, **texts("en")["elements"][name], "interactive": interactive}
    match element.kind:
        case "switch":
            return gr.Checkbox(**common)
        case "choice":
            return gr.Dropdown(choices=list(element.choices), **common)
        case "phases":
            return gr.CheckboxGroup(choices=_phase_choices("en", name), scale=2, **common)
        case "datasets":
            return gr.Dropdown(multiselect=True, allow_custom_value=True, **common)
        case "models":
            from llamafactory.extras.constants import SUPPORTED_MODELS

            return gr.Dropdown(choices=[*SUPPORTED_MODELS, "Custom"], **common)
        case "fraction":
            return gr.Slider(minimum=0, maximum=1, step=0.01, **common)
        case "number":
            return gr.Number(**common)
    return gr.Textbox(**common)


def _phase_choices(lang: str | None, name: str) -> list[tuple[str, str]]:
    words = texts(lang)["phases"]
    return [(words[phase], phase) for phase in ELEMENTS[name].choices]


def _describe(lang: str | None, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Component -> label, help and interactivity; the help of an unused element is the reason why it is unused."""
    catalogue, unused = texts(lang), unused_elements(values) if values["use_clinkd"] else {}
    updates: dict[str, dict[str, Any]] = {f"{name}_tab": {"label": t} for name, t in catalogue["groups"].items()}
    for name, words in catalogue["elements"].items():
        info = catalogue["reasons"][unused[name]] if name in unused else words["info"]
        interactive = name == "use_clinkd" or bool(values["use_clinkd"] and name not in unused)
        updates[name] = {"label": words["label"], "info": info, "interactive": interactive}
    for name in ("clinkd_phases", "generation_phases"):
        updates[name]["choices"] = _phase_choices(lang, name)
    return updates


def _wire(components: dict[str, Any], engine: Any, elements: dict[str, Any]) -> None:
    from llamafactory.webui.common import get_model_path
    from llamafactory.webui.control import list_datasets

    lang, drivers = engine.manager.get_elem_by_id("top.lang"), [components[name] for name in DRIVERS]

    def describe(language: str | None, *values: Any) -> dict[Any, Any]:
        updates = _describe(language, dict(zip(DRIVERS, values, strict=True)))
        return {components[name]: type(components[name])(**update) for name, update in updates.items()}

    changes = [lang.change, *(driver.change for driver in drivers)]
    gr.on(changes, describe, [lang, *drivers], list(components.values()), queue=False, show_progress="hidden")
    teacher, test_data = components["teacher_name"], components["eval_dataset"]
    teacher.input(get_model_path, [teacher], [components["ref_model"]], queue=False)
    test_data.focus(list_datasets, [elements["dataset_dir"], elements["training_stage"]], [test_data], queue=False)
