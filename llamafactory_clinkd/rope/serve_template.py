# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The chat template under which ``clinkd serve`` starts vLLM: one that makes the prompts of the training.

vLLM renders the template of the folder. It is compared, on a few conversations, with LLaMA-Factory's template of the
training; where it differs, vLLM gets another file that does not.
"""

import copy
import importlib.util
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.boxes import IMAGE_PLACEHOLDER as IMAGE
from ..utils.console import quiet_libraries
from ..utils.io import read_json, write_text
from .chat_template import first_difference, image_placeholder, jinja_template, training_ids


FILE = "clinkd_chat_template.jinja"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
OPTION, FORMAT = "--chat-template", "--chat-template-content-format"
PROBES = (  # system prompt and turns
    ("", (IMAGE + "Where is the left kidney?",)),
    ("Answer in one word.", (IMAGE + "Where is the left kidney?",)),
    ("", (IMAGE + "Is it healthy?", "Yes.", "And in " + IMAGE + "?")),
)
_NOT_COMPARED = "The chat template of {folder} is not compared with that of the training: {reason}."


class Training(NamedTuple):
    """LLaMA-Factory's keys that decide the prompt."""

    template: str
    default_system: str | None = None
    enable_thinking: bool = True
    preserve_thinking: bool = False


class ServedTemplate(NamedTuple):
    """vLLM's options, and a sentence for the user where something is not as expected."""

    options: list[str]
    note: str = ""


def served_template(folder: Path, template: str | None, more: Sequence[str]) -> ServedTemplate:
    """Compares, and writes :data:`FILE` into the folder if its own template makes other prompts.

    Args:
        folder: The model's.
        template: LLaMA-Factory's name; None for what the run in the folder recorded.
        more: vLLM's options, among them perhaps another chat template.

    Raises:
        ValueError: If the prompts would differ and no template can be written that does not.
    """
    if not (folder / "tokenizer_config.json").is_file():
        return ServedTemplate([], _NOT_COMPARED.format(folder=folder, reason="the folder has no tokenizer"))
    training = recorded_training(folder)
    if template is not None and training is not None and training.template != template:
        raise ValueError(f"{folder} was trained with `template: {training.template}`, found `--template {template}`.")
    training = training or (None if template is None else Training(template))
    with quiet_libraries():
        from transformers import AutoProcessor, AutoTokenizer

        trusted = {"trust_remote_code": "--trust-remote-code" in more}
        tokenizer = AutoTokenizer.from_pretrained(folder, **trusted)
        has_processor = any((folder / name).is_file() for name in PROCESSORS)
        processor = AutoProcessor.from_pretrained(folder, **trusted) if has_processor else None
    given = _given(more)
    jinja = given or getattr(processor, "chat_template", None) or tokenizer.chat_template
    if training is None:
        _require_images(folder, jinja, tokenizer, getattr(processor, "image_token", None))
        reason = "give LLaMA-Factory's name of it as `--template`"
        return ServedTemplate([], _NOT_COMPARED.format(folder=folder, reason=reason))
    if importlib.util.find_spec("llamafactory") is None:
        return ServedTemplate([], _NOT_COMPARED.format(folder=folder, reason="LLaMA-Factory is not installed here"))
    expected = training_template(training, tokenizer)
    try:
        has_images = bool(image_placeholder(expected.mm_plugin))
    except ValueError as error:
        return ServedTemplate([], _NOT_COMPARED.format(folder=folder, reason=error))
    options = [FORMAT, "openai"] if has_images else []
    difference = difference_of(jinja, expected, tokenizer)
    if not difference:
        return ServedTemplate(options)
    found = f"{given and OPTION or folder} makes another prompt than the training (`template: {training.template}`)"
    if given:
        raise ValueError(f"The chat template of {found}: {difference}. Leave {OPTION} out or correct it.")
    try:
        ours = jinja_template(expected, tokenizer)
        remaining = difference_of(ours, expected, tokenizer)
    except ValueError as error:
        remaining = str(error)
    if remaining:
        raise ValueError(
            f"The chat template of {found}: {difference}. None could be written that makes the same ({remaining}): "
            f"give a file that does, `-- {OPTION} FILE`."
        )
    write_text(folder / FILE, ours)
    note = f"The chat template of {found}: {difference}. vLLM gets {folder / FILE}, which makes the same."
    return ServedTemplate([OPTION, str(folder / FILE), *options], note)


def recorded_training(folder: Path) -> Training | None:
    """What the phases of a run recorded in its folder; None without a run or with a template from the tokenizer."""
    path = folder / "clinkd" / "state.json"
    phases = read_json(path)["phases"].values() if path.is_file() else []
    inputs = [phase["inputs"] for phase in phases if phase["inputs"].get("template")]
    return Training(**{key: inputs[-1][key] for key in Training._fields if key in inputs[-1]}) if inputs else None


def training_template(training: Training, tokenizer: Any) -> Any:
    """LLaMA-Factory's template under these keys; it sets the tokenizer's end tokens, as in a training.

    Raises:
        ValueError: If there is none of this name.
    """
    from llamafactory.data.template import TEMPLATES

    if training.template not in TEMPLATES:
        raise ValueError(f"Found the template {training.template!r}, expected one of {', '.join(sorted(TEMPLATES))}.")
    template = copy.copy(TEMPLATES[training.template])
    if training.default_system is not None:
        template.default_system = training.default_system
    template.enable_thinking, template.preserve_thinking = training.enable_thinking, training.preserve_thinking
    template.fix_special_tokens(tokenizer)
    return template


def difference_of(jinja: str | None, template: Any, tokenizer: Any) -> str:
    """How the prompts of a chat template differ from the training's; empty if they do not."""
    placeholder = image_placeholder(template.mm_plugin)
    for system, turns in PROBES:
        turns = turns if placeholder else tuple(turn.replace(IMAGE, "") for turn in turns)
        expected = training_ids(template, tokenizer, system, turns)
        text, problem = rendered(jinja, tokenizer, system, turns, parts=bool(placeholder))
        if problem:
            return problem
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        if found != expected:
            before, there, here = first_difference(tokenizer, found, expected)
            return f"after {before!r} found {there!r}, expected {here!r}"
    return ""


def rendered(jinja: str | None, tokenizer: Any, system: str, turns: Sequence[str], *, parts: bool) -> tuple[str, str]:
    """The text of a conversation, with messages in parts as vLLM passes them, and why there is none."""
    from jinja2 import TemplateError

    if not jinja:
        return "", "found none"
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": ("user", "assistant")[number % 2], "content": turn} for number, turn in enumerate(turns)]
    if parts:
        messages = [{**message, "content": list(_parts(message["content"]))} for message in messages]
    try:
        text = tokenizer.apply_chat_template(messages, chat_template=jinja, tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        return "", f"it cannot be rendered with a picture ({error})"
    return text, ""


def _parts(content: str) -> Any:
    for number, text in enumerate(content.split(IMAGE)):
        if number:
            yield {"type": "image"}
        if text:
            yield {"type": "text", "text": text}


def _require_images(folder: Path, jinja: str | None, tokenizer: Any, image_token: str | None) -> None:
    """Raises ValueError if the model takes images, and its chat template has none."""
    if not image_token:
        return
    text, problem = rendered(jinja, tokenizer, *PROBES[0], parts=True)
    if problem or text.count(image_token) != 1:
        raise ValueError(
            f"The chat template of {folder} has no images ({problem or repr(text[:200])}): vLLM would make other "
            "prompts than the training. Give LLaMA-Factory's name of the training's template, e.g. `--template "
            f"qwen2_vl`, or a file with images: `-- {OPTION} FILE`."
        )


def _given(more: Sequence[str]) -> str | None:
    """The text of the chat template among vLLM's options."""
    value = None
    for name, following in pairwise([*more, ""]):
        if name == OPTION:
            value = following
        elif name.startswith(f"{OPTION}="):
            value = name.removeprefix(f"{OPTION}=")
    if value is None:
        return None
    return Path(value).read_text(encoding="utf-8") if Path(value).is_file() else value
