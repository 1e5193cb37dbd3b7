# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Writes ``docs/configuration.md``, the table of all recipe keys, from the dataclass that defines them.

``python docs/write_configuration.py`` writes the page; ``tests/test_docs.py`` compares it.
"""

from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin

from llamafactory_clinkd.arguments import ClinkdArguments


PAGE = Path(__file__).with_name("configuration.md")
HEAD = """# Recipe keys

<!-- Written by docs/write_configuration.py: change the help texts in llamafactory_clinkd/arguments.py instead. -->

A ClinKD recipe is a LLaMA-Factory SFT recipe with the keys below. Every key but `use_clinkd` needs `use_clinkd: true`.

Keys of LLaMA-Factory that ClinKD reads:

| key | meaning |
|---|---|
| `ref_model`, `ref_model_adapters`, `ref_model_quantization_bit` | the teacher: model, LoRA adapters, 4 or 8 bits |
| `num_beams`, `max_new_tokens`, `per_device_eval_batch_size` | generation in every phase that generates |
| `eval_dataset` | the questions of phase `predict` |
| `freeze_vision_tower` | `true` in the paper |

Keys of this plugin:

| key | default | meaning |
|---|---|---|
"""


def configuration_page() -> str:
    """The page as Markdown: one row for each key with its default, choices and help text."""
    rows = []
    for item in fields(ClinkdArguments):
        default = (
            ""
            if item.default is None
            else f"`{str(item.default).lower() if isinstance(item.default, bool) else item.default}`"
        )
        text = item.metadata["help"].replace("|", "\\|")
        if get_origin(item.type) is Literal and not all(choice in text for choice in get_args(item.type)):
            text += f" One of {', '.join(get_args(item.type))}."
        rows.append(f"| `{item.name}` | {default} | {text} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(configuration_page(), encoding="utf-8")
