# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A server that makes another prompt of a row than the run, by its chat template or its image processor."""

import logging

import pytest

from .answer_server import AnswerServer, question_of
from .conftest import SPECIALS
from .test_served_answers import COUNT, generate, messages


pytest.importorskip("openai", reason="the openai client is not installed")
START, END, PAD = (SPECIALS.index(f"<|{name}|>") for name in ("vision_start", "vision_end", "image_pad"))
WORD, OTHER = len(SPECIALS), len(SPECIALS) + 1


def ids_of(index, images=4):
    """A picture and as many words as the row's number needs."""
    return [START, *[PAD] * images, END, *[WORD] * (1 + index % 3)]


def row_of(body):
    return int(question_of(body).split()[1])


@pytest.fixture
def prompts(tokenizer):
    from llamafactory_clinkd.generation.served_prompts import Prompts

    return Prompts(ids_of, tokenizer, PAD)


@pytest.fixture
def server():
    with AnswerServer() as server:
        server.prompt = lambda body: ids_of(row_of(body))
        yield server


def refusal():
    from llamafactory_clinkd.generation.served_model import ServerError

    return pytest.raises(ServerError, match="reads a prompt otherwise than this run")


def with_line_break(body):
    ids = ids_of(row_of(body))
    return [*ids[:6], OTHER, *ids[6:]]


@pytest.mark.parametrize("reported", [lambda ids: ids, len])
def test_the_same_prompts_are_answered(server, prompts, tmp_path, caplog, reported):
    server.prompt = lambda body: reported(ids_of(row_of(body)))
    assert len(generate(server, tmp_path / "a.jsonl", prompts=prompts)) == COUNT
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_another_text_is_refused_before_the_first_row(server, prompts, tmp_path):
    server.prompt = with_line_break
    with refusal() as refused:
        generate(server, tmp_path / "a.jsonl", prompts=prompts)
    assert "after '<|vision_end|>' follows 'w0' here, 'w1 w0' there" in str(refused.value)
    assert "clinkd serve" in str(refused.value) and server.asked() == []
    server.prompt = lambda body: len(with_line_break(body))
    with refusal() as refused:
        generate(server, tmp_path / "a.jsonl", prompts=prompts)
    assert "7 tokens here, 8 there" in str(refused.value) and server.asked() == []


def test_other_image_sizes_are_refused(server, prompts, tmp_path):
    server.prompt = lambda body: ids_of(row_of(body), images=9)
    with refusal() as refused:
        generate(server, tmp_path / "a.jsonl", prompts=prompts)
    assert "its images have 4 tokens here, 9 there" in str(refused.value) and server.asked() == []


def test_a_server_that_reports_no_prompt_is_named_once(server, prompts, tmp_path, caplog):
    server.prompt = lambda body: None
    assert len(generate(server, tmp_path / "a.jsonl", prompts=prompts)) == COUNT
    assert caplog.text.count("does not report the tokens of its prompts") == 1


def test_a_later_row_with_another_prompt_is_set_aside(server, prompts, tmp_path):
    server.prompt = lambda body: (with_line_break if row_of(body) == 7 else lambda body: ids_of(row_of(body)))(body)
    rows = generate(server, tmp_path / "a.jsonl", prompts=prompts)
    failed = {row["id"]: row["error"] for row in rows if "error" in row}
    assert failed == {"7:row": "the server's answer: other_prompt"}


def test_a_teacher_without_ref_model_may_have_another_tokenizer_but_no_other_template(
    server, prompts, tmp_path, caplog, tokenizer
):
    server.prompt, server.decode = with_line_break, lambda ids: "another vocabulary"
    assert len(generate(server, tmp_path / "a.jsonl", prompts=prompts, same_processor=False)) == COUNT
    assert caplog.text.count("The server reads a prompt otherwise") == 1 and "no `ref_model`" in caplog.text
    server.decode = lambda ids: tokenizer.decode(ids)
    with refusal():
        generate(server, tmp_path / "b.jsonl", prompts=prompts, same_processor=False)
    caplog.clear()
    server.prompt = lambda body: ids_of(row_of(body), images=9)
    assert len(generate(server, tmp_path / "c.jsonl", prompts=prompts, same_processor=False)) == COUNT
    assert "its images have 4 tokens here, 9 there" in caplog.text


def test_thinking_is_requested_as_the_run_has_it(server, tmp_path):
    from llamafactory_clinkd.generation.served_model import ServedModel

    for kind, sent in (("vllm", {"enable_thinking": False}), ("owner", None)):
        served = ServedModel(server.url)
        server.kind, served.template_options = kind, {"enable_thinking": False}
        served.find_model()
        served.first_token(messages(0))
        assert server.bodies[-1].get("chat_template_kwargs") == sent
