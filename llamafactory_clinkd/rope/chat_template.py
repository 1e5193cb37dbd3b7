# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A Jinja chat template with images that makes the prompts of one of LLaMA-Factory's templates.

LLaMA-Factory trains with its own template, not with that of the model folder. Where a folder has none, it saves one
that has no images; other folders keep theirs. A server reads what is in the folder.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ..utils.boxes import IMAGE_PLACEHOLDER


SHOWN = 8  # tokens of a difference
_MARK = "\x00"  # the place of a message's text in a template's slots
_TEXT = (
    "{% macro text(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content or [] %}"
    "{% if part['type'] == 'image' %}IMAGE{% elif part['type'] == 'video' %}VIDEO"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endmacro %}"
)


def jinja_template(template: Any, tokenizer: Any) -> str:
    """The chat template of LLaMA-Factory's ``template``; it refuses tools and roles that it does not have.

    Raises:
        ValueError: If this class of templates, or its images, are not known here.
    """
    from llamafactory.data.template import Glm47ReasoningTemplate, ReasoningTemplate, Template

    if type(template) not in (Template, ReasoningTemplate, Glm47ReasoningTemplate):
        raise ValueError(f"a {type(template).__name__} is not written as a chat template")
    thinks = isinstance(template, ReasoningTemplate)
    answer = "text(message['content'])"
    if thinks and not template.preserve_thinking:
        answer += f".split({json.dumps(template.thought_words[1].strip(), ensure_ascii=False)})[-1].lstrip('\\n')"
    thought = _literal(template.add_thought()) if thinks and not template.enable_thinking else ""
    texts = _TEXT
    for name in ("image", "video"):
        placeholder = _placeholder(template.mm_plugin, f"{name}_token")
        texts = texts.replace(name.upper(), _literal(placeholder) or _refusal(f"It has no {name}s."))
    user = _slots(template.format_user.apply(content=_MARK, idx="0"), tokenizer, "text(message['content'])")
    assistant = _slots(template.format_assistant.apply(content=_MARK), tokenizer, answer)
    return "".join((
        texts,
        "{% if tools %}", _refusal("It has no tools."), "{% endif %}",
        "{% set first = messages[0]['role'] == 'system' %}",
        "{% set system = (text(messages[0]['content']) if first else '') or ",
        json.dumps(template.default_system, ensure_ascii=False), " %}",
        _slots(template.format_prefix.apply(), tokenizer, ""),
        "{% if system %}", _slots(template.format_system.apply(content=_MARK), tokenizer, "system"), "{% endif %}",
        "{% for message in (messages[1:] if first else messages) %}",
        "{% if message['role'] == 'user' %}", user, "{% if loop.last %}", thought, "{% endif %}",
        "{% elif message['role'] == 'assistant' %}", assistant,
        "{% else %}", _refusal("It has the roles system, user and assistant."), "{% endif %}{% endfor %}",
    ))  # fmt: skip


def image_placeholder(plugin: Any) -> str:
    """What stands for an image, with one token for all its parts; empty for a template of texts.

    Raises:
        ValueError: If the plugin is not one of the Qwen-VL models.
    """
    return _placeholder(plugin, "image_token")


def _placeholder(plugin: Any, token: str) -> str:
    name = type(plugin).__name__
    if getattr(plugin, token, None) is None:
        return ""
    if name not in ("Qwen2VLPlugin", "Qwen3VLPlugin"):
        raise ValueError(f"how {name} writes images is not known here")
    return plugin.vision_bos_token + getattr(plugin, token) + plugin.vision_eos_token


def training_ids(template: Any, tokenizer: Any, system: str, turns: Sequence[str]) -> list[int]:
    """The prompt that LLaMA-Factory makes of user's and assistant's turns, with one token for each ``<image>``."""
    roles = ("user", "assistant")
    placeholder = image_placeholder(template.mm_plugin)
    messages = [
        {"role": roles[number % 2], "content": turn.replace(IMAGE_PLACEHOLDER, placeholder)}
        for number, turn in enumerate(turns)
    ]
    return template.encode_oneturn(tokenizer, [*messages, {"role": "assistant", "content": ""}], system)[0]


def collapsed(ids: Sequence[int], image_id: int | None) -> list[int]:
    """The ids with one token for each image."""
    return [each for token, group in groupby(ids) for each in ([token] if token == image_id else group)]


def first_difference(tokenizer: Any, here: Sequence[int], there: Sequence[int]) -> tuple[str, str, str]:
    """The token before the first difference of two prompts, and what follows it in both."""
    shorter = min(len(here), len(there))
    first = next((n for n, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), shorter)
    parts = here[max(0, first - 1) : first], here[first : first + SHOWN], there[first : first + SHOWN]
    return tuple(tokenizer.decode(list(part)) for part in parts)


def _slots(slots: Any, tokenizer: Any, variable: str) -> str:
    """Slots of a template as Jinja, where :data:`_MARK` stands for the value of ``variable``."""
    written = []
    for slot in slots:
        if isinstance(slot, dict):
            written.append(_literal(slot["token"]))
        elif isinstance(slot, set):
            token = tokenizer.bos_token if "bos_token" in slot else tokenizer.eos_token
            written.append(_literal(token or ""))
        else:
            written.append(f"{{{{ {variable} }}}}".join(map(_literal, slot.split(_MARK))))
    return "".join(written)


def _literal(text: str) -> str:
    # Jinja reads the escapes of a text as Python does, of which JSON's are a part.
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def _refusal(reason: str) -> str:
    return f"{{{{ raise_exception('This chat template is that of a training. {reason}') }}}}"
