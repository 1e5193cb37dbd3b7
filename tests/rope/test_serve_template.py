# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The chat template of ``clinkd serve``: the training's prompts, whatever the folder's own template makes."""

import copy
import shlex

import pytest
from PIL import Image
from tiny_models import CHAT_TEMPLATE
from typer.testing import CliRunner

from llamafactory_clinkd.rope.chat_template import collapsed, jinja_template, training_ids
from llamafactory_clinkd.rope.serve_template import (
    FILE,
    PROBES,
    Training,
    difference_of,
    rendered,
    served_template,
    training_template,
)
from llamafactory_clinkd.utils.boxes import IMAGE_PLACEHOLDER as IMAGE
from llamafactory_clinkd.utils.io import write_json


@pytest.fixture(scope="module")
def tokenizer(workspace):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(workspace / "student")


@pytest.fixture
def folder(workspace, tmp_path):
    """The student's tokenizer and processor, and what a finished run records."""
    for path in (workspace / "student").iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return tmp_path


def record(folder, **inputs):
    inputs = {"template": "qwen2_vl", "default_system": None} | inputs
    (folder / "clinkd").mkdir(exist_ok=True)
    write_json(folder / "clinkd" / "state.json", {"format": 1, "phases": {"distill": {"inputs": inputs}}})


def text_only(tokenizer):
    """What stock LLaMA-Factory saves where the tokenizer has no chat template."""
    template, bare = training_template(Training("qwen2_vl"), tokenizer), copy.deepcopy(tokenizer)
    bare.chat_template = None
    template.fix_jinja_template(bare)
    return bare.chat_template


TRAININGS = [
    Training("qwen2_vl"),
    Training("qwen2_vl", default_system='It\'s "brief" {{ 1 }} \\n é 😀.'),
    Training("qwen3_vl"),
    Training("qwen3_vl", enable_thinking=False),
    Training("qwen3_vl", enable_thinking=False, preserve_thinking=True),
    Training("qwen3_vl_nothink"),
    Training("qwen"),
]


@pytest.mark.parametrize("training", TRAININGS, ids=str)
def test_the_written_template_makes_the_training_s_prompts(training, tokenizer):
    template = training_template(training, tokenizer)
    jinja = jinja_template(template, tokenizer)
    assert difference_of(jinja, template, tokenizer) == ""
    conversations = [("", ("a",)), ("", ("q", "<think>\nwhy\n</think>\n\nso", "r"))]
    if training.template != "qwen":  # of texts only
        conversations.append(("  s ", (f"a {IMAGE} b\n{IMAGE}\n",)))
    for system, turns in conversations:
        text, problem = rendered(jinja, tokenizer, system, turns, parts=training.template != "qwen")
        assert not problem
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert found == training_ids(template, tokenizer, system, turns)


def test_the_compared_prompts_are_those_that_stock_trains_on(workspace):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(workspace / "student")
    tokenizer = processor.tokenizer
    template = training_template(Training("qwen2_vl"), tokenizer)
    picture, image_id = Image.new("RGB", (84, 84)), tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for system, turns in PROBES:
        roles = ("user", "assistant")
        messages = [{"role": roles[n % 2], "content": turn} for n, turn in enumerate([*turns, ""])]
        pictures = [picture] * sum(turn.count(IMAGE) for turn in turns)
        messages = template.mm_plugin.process_messages(messages, pictures, [], [], processor)
        stock = template.encode_oneturn(tokenizer, messages, system)[0]
        assert len(stock) > len(collapsed(stock, image_id)) == len(set(enumerate(collapsed(stock, image_id))))
        assert training_ids(template, tokenizer, system, turns) == collapsed(stock, image_id)


@pytest.mark.parametrize("role", ["tool", "function"])
def test_what_the_training_does_not_have_is_refused_by_the_written_template(role, tokenizer):
    import jinja2

    jinja = jinja_template(training_template(Training("qwen2_vl"), tokenizer), tokenizer)
    with pytest.raises(jinja2.TemplateError, match="roles system, user and assistant"):
        tokenizer.apply_chat_template([{"role": role, "content": "x"}], chat_template=jinja)
    with pytest.raises(jinja2.TemplateError, match="no tools"):
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}], chat_template=jinja, tools=[{"type": "function", "name": "f"}]
        )
    plain = jinja_template(training_template(Training("qwen"), tokenizer), tokenizer)
    with pytest.raises(jinja2.TemplateError, match="no images"):
        tokenizer.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], chat_template=plain)


def test_a_template_that_makes_the_same_prompts_stays(folder):
    record(folder)
    assert served_template(folder, None, []) == (["--chat-template-content-format", "openai"], "")
    assert not (folder / FILE).exists()


@pytest.mark.parametrize("kind", ["text only", "none", "system"])
def test_another_template_is_replaced(folder, tokenizer, kind):
    changes = {"default_system": "Answer as a radiologist."} if kind == "system" else {}
    record(folder, **changes)
    if kind == "text only":
        (folder / "chat_template.jinja").write_text(text_only(tokenizer))
    if kind == "none":
        (folder / "chat_template.jinja").unlink()
    options, note = served_template(folder, "qwen2_vl", [])
    assert options[:2] == ["--chat-template", str(folder / FILE)] and "makes another prompt than the training" in note
    expected = training_template(Training("qwen2_vl", **changes), tokenizer)
    assert difference_of((folder / FILE).read_text(), expected, tokenizer) == ""
    found = {"text only": "cannot be rendered with a picture", "none": "found none", "system": "expected 'Answer"}
    assert found[kind] in note


def test_the_command_names_the_file_and_says_why(folder, tokenizer):
    from llamafactory_clinkd.cli import with_all_commands

    record(folder)
    (folder / "chat_template.jinja").write_text(text_only(tokenizer))
    done = CliRunner().invoke(with_all_commands(), ["serve", str(folder), "--python", "/vllm/python"])
    assert done.exit_code == 0, done.output
    words = shlex.split(done.stdout)
    assert words[words.index("--chat-template") + 1] == str(folder / FILE) and "which makes the same" in done.stderr


def test_the_user_s_own_template_is_compared(folder, tokenizer, tmp_path):
    record(folder)
    own = tmp_path / "own.jinja"
    own.write_text(text_only(tokenizer))
    for more in (["--chat-template", str(own)], [f"--chat-template={own}"]):
        with pytest.raises(ValueError, match="makes another prompt than the training"):
            served_template(folder, None, more)
    own.write_text(CHAT_TEMPLATE)
    assert served_template(folder, None, ["--chat-template", str(own)]).note == ""


def test_without_the_training_s_template_images_are_required(folder, tokenizer):
    options, note = served_template(folder, None, [])
    assert options == [] and "give LLaMA-Factory's name of it as `--template`" in note
    (folder / "chat_template.jinja").write_text(text_only(tokenizer))
    with pytest.raises(ValueError, match="has no images.*--template qwen2_vl"):
        served_template(folder, None, [])
    assert served_template(folder, "qwen2_vl", []).options[1] == str(folder / FILE)


def test_names_that_do_not_fit_are_refused(folder):
    with pytest.raises(ValueError, match="Found the template 'qwen_vl'"):
        served_template(folder, "qwen_vl", [])
    record(folder)
    with pytest.raises(ValueError, match="trained with `template: qwen2_vl`, found `--template qwen3_vl`"):
        served_template(folder, "qwen3_vl", [])


def test_what_cannot_be_written_is_refused_or_named(folder):
    options, note = served_template(folder, "llava", [])
    assert options == [] and "LlavaPlugin writes images is not known here" in note
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ValueError, match="None could be written.*Llama2Template.*-- --chat-template FILE"):
        served_template(folder, "llama2", [])


def test_a_text_model_s_messages_are_texts(folder):
    for path in folder.glob("*processor_config.json"):
        path.unlink()
    write_json(folder / "config.json", {"model_type": "qwen2"})
    assert served_template(folder, None, []).options == []
    options, note = served_template(folder, "qwen", [])
    assert options == ["--chat-template", str(folder / FILE)] and "' Qwen" in note
