# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The accordion "ClinKD configurations" of the Train tab, whose elements the Evaluate & Predict tab reads, too."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import gradio as gr

from ..utils.gpus import GPUS
from ..utils.patching import patch_instance
from .elements import DRIVERS, ELEMENTS, GROUPS, TAB, unused_elements
from .locales import texts
from .plan_estimate import estimate
from .presets import PRESETS, preset_values, register_demo_model


LOG_HEIGHT = 640  # pixels, of a run's messages
# In the browser alone: the report that the first line of a run's messages links, or nothing.
FRAME_SCRIPT = """(text) => {
  const link = /^\\[[^\\]]*\\]\\((gradio_api\\/file=[^)"]+)\\)/.exec(text || "");
  const style = "width: 100%; height: 80vh; border: 1px solid var(--border-color-primary); border-radius: 8px";
  return link ? `<iframe src="${link[1]}" title="ClinKD report" style="${style}"></iframe>` : "";
}"""


def create_top(stock: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Wraps ``create_top``: the demo's model is among those to choose from."""
    register_demo_model()
    return stock()


def create_train_tab(stock: Callable[[Any], dict[str, Any]], engine: Any) -> dict[str, Any]:
    """Wraps ``create_train_tab``: builds the accordion after BAdam's, and registers its elements as tab ``clinkd``."""
    groups, boxes, own = _build()
    accordion, components = groups[TAB], {f"{name}_tab": group for name, group in groups.items()} | boxes
    engine.manager.add_elems(TAB, components)
    with _more_base_elements(engine.manager, set(boxes.values())):
        elements = stock(engine)
    accordion.render()
    siblings = accordion.parent.children
    siblings.remove(accordion)
    siblings.insert(siblings.index(elements["badam_tab"]) + 1, accordion)
    _wire(components, own, engine, elements)
    _show_report(elements["output_box"])
    return elements


def create_eval_tab(stock: Callable[[Any], dict[str, Any]], engine: Any) -> dict[str, Any]:
    """Wraps ``create_eval_tab``: its preview and start also read the elements of the accordion."""
    boxes = {engine.manager.get_elem_by_id(f"{TAB}.{name}") for name in ELEMENTS}
    with _more_base_elements(engine.manager, boxes):
        elements = stock(engine)
    _show_report(elements["output_box"])
    return elements


def _show_report(output_box: Any) -> None:
    """Limits the height of a run's messages, and opens the report that they link below them."""
    output_box.max_height = LOG_HEIGHT
    frame = gr.HTML(label="ClinKD report")
    output_box.change(None, [output_box], [frame], js=FRAME_SCRIPT)


def _more_base_elements(manager: Any, components: set[Any]) -> AbstractContextManager[None]:
    """While a tab is built, makes ``components`` inputs of its preview, start, save and load."""
    stock = manager.get_base_elems
    return patch_instance(manager, "get_base_elems", lambda: stock() | components)


def _build() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The accordions by group, the inputs by element, and what the manager does not save; outside of any page."""
    groups, boxes, own = {}, {}, {}
    words = texts("en")["board"]
    with gr.Accordion(texts("en")["groups"][TAB], open=False, render=False) as groups[TAB]:
        own["preset"] = gr.Dropdown(_preset_choices("en"), value=None, **words["preset"])
        for group, rows in GROUPS.items():
            is_first = group == "procedure"
            with gr.Accordion(texts("en")["groups"][group], open=is_first, visible=is_first) as groups[group]:
                for row in rows:
                    with gr.Row():
                        for name in row:
                            boxes[name] = create_component(name, interactive=name == "use_clinkd")
                            boxes[name].visible = name == "use_clinkd"
        with gr.Row(visible=False) as own["plan_row"]:
            own["gpu"] = gr.Dropdown(list(GPUS), value="a100-80", **words["gpu"])
            own["gpus"] = gr.Number(1, minimum=1, precision=0, **words["gpus"])
            own["estimate"] = gr.Button(words["estimate"])
        own["plan"] = gr.Markdown()
    return groups, boxes, own


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
            return gr.CheckboxGroup(choices=list(element.choices), scale=2, **common)
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


def _preset_choices(lang: str | None) -> list[tuple[str, str]]:
    return [(texts(lang)["board"]["presets"][name], name) for name in PRESETS]


def _describe(lang: str | None, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Component -> label, help, interactivity and visibility.

    Without ``use_clinkd`` only its own box is visible. With it, a box that no chosen phase uses is hidden, and a group
    without a visible box; the help of another unused box is the reason why it is unused.
    """
    catalogue, is_on = texts(lang), bool(values["use_clinkd"])
    unused = unused_elements(values) if is_on else dict.fromkeys(ELEMENTS, "")
    unused.pop("use_clinkd", None)
    updates: dict[str, dict[str, Any]] = {f"{TAB}_tab": {"label": catalogue["groups"][TAB]}}
    for name, words in catalogue["elements"].items():
        info = catalogue["reasons"][unused[name]] if unused.get(name) else words["info"]
        updates[name] = {"label": words["label"], "info": info, "interactive": name not in unused}
        updates[name]["visible"] = unused.get(name) != ""
    for group, rows in GROUPS.items():
        is_visible = any(updates[name]["visible"] for row in rows for name in row)
        updates[f"{group}_tab"] = {"label": catalogue["groups"][group], "visible": is_visible}
    board = catalogue["board"]
    updates["preset"] = {**board["preset"], "choices": _preset_choices(lang)}
    updates |= {name: dict(board[name]) for name in ("gpu", "gpus")}
    updates |= {"estimate": {"value": board["estimate"]}, "plan_row": {"visible": is_on}}
    return updates | {"num_train_epochs": {"interactive": not is_on}}  # ours are kd_epochs and correction_rounds


def _wire(components: dict[str, Any], own: dict[str, Any], engine: Any, elements: dict[str, Any]) -> None:
    from llamafactory.webui.common import get_model_path
    from llamafactory.webui.control import list_datasets

    manager, described = engine.manager, components | own | {"num_train_epochs": elements["num_train_epochs"]}
    lang, drivers = manager.get_elem_by_id("top.lang"), [components[name] for name in DRIVERS]

    def describe(language: str | None, *values: Any) -> dict[Any, Any]:
        updates = _describe(language, dict(zip(DRIVERS, values, strict=True)))
        return {described[name]: type(described[name])(**update) for name, update in updates.items()}

    changes = [lang.change, *(driver.change for driver in drivers)]
    gr.on(changes, describe, [lang, *drivers], list(described.values()), queue=False, show_progress="hidden")
    teacher, test_data = components["teacher_name"], components["eval_dataset"]
    teacher.input(get_model_path, [teacher], [components["ref_model"]], queue=False)
    test_data.focus(list_datasets, [elements["dataset_dir"], elements["training_stage"]], [test_data], queue=False)

    filled = {f"{TAB}.{name}": component for name, component in components.items()}
    filled |= {f"train.{name}": element for name, element in elements.items()}
    filled |= {name: manager.get_elem_by_id(name) for name in ("top.model_name", "top.finetuning_type")}

    def fill(preset: str) -> dict[Any, Any]:
        return {filled[name]: value for name, value in preset_values(preset, elements).items()}

    own["preset"].input(fill, [own["preset"]], list(filled.values()))
    inputs = {element for element in filled.values() if isinstance(element, gr.components.FormComponent)}
    inputs |= {own["gpu"], own["gpus"], *manager.get_base_elems()}

    def plan(data: dict[Any, Any]) -> str:
        return estimate(engine.runner, data, data[own["gpu"]], data[own["gpus"]], data[lang])

    own["estimate"].click(plan, inputs, [own["plan"]])
