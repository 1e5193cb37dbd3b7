# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Answers as servers send them: each row of the matrix goes through a real HTTP server and the official client."""

import gzip
import json

import pytest
from aiohttp import web

from llamafactory_clinkd.correct import CorrectionItem
from llamafactory_clinkd.correct.server_answers import AnswerError, drop_reasoning, parse_answer

from .fault_server import FaultServer, completion


pytest.importorskip("openai", reason="the openai client is not installed")

ITEM = CorrectionItem("1", "Where is the left kidney 1?", "The left kidney is small.", "nothing")
DRAFT, FINAL = json.dumps({"candidates": ["a draft"]}), json.dumps({"candidates": ["a", " b ", "a", "c", "d"]})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (FINAL, ("a", "b", "c")),
        (f"Of course!\n```json\n{FINAL}\n```\nBye", ("a", "b", "c")),
        ('["a", "b"]', ("a", "b")),
        ('See [1]: {"candidates": ["a", 5, null]}', ("a",)),
        (r'{"candidates": ["half \ud83d", "whole \ud83d\ude00"]}', ("whole \U0001f600",)),
        (f"<think>{DRAFT}</think>{FINAL}", ("a", "b", "c")),
        (f"<think>x<think>{DRAFT}</think>{DRAFT}</think>{FINAL}", ("a", "b", "c")),
        (f"<think>x</think><Thinking effort=1>{DRAFT}</Thinking >{FINAL}", ("a", "b", "c")),
        (f"the template opened it: {DRAFT}</think>{FINAL}", ("a", "b", "c")),
        (f"[THINK]{DRAFT}[/THINK]{FINAL}", ("a", "b", "c")),
        (f"<|channel|>analysis<|message|>{DRAFT}<|end|><|channel|>final<|message|>{FINAL}", ("a", "b", "c")),
        (f'["a draft"] then {DRAFT} and at last {FINAL} ["note"]', ("a", "b", "c")),
        (f'{{"terms": ["kidney"]}}\n{FINAL}', ("a", "b", "c")),
        ('{"candidates": ["1. one", "2. two"]}', ("one", "two")),
        ('{"candidates": ["- one", "- two"]}', ("one", "two")),
        (json.dumps({"candidates": ['"one"', "“two”"]}), ("one", "two")),
        ('{"candidates": ["2. metatarsal fracture", "two"]}', ("2. metatarsal fracture", "two")),
        ("prose {" * 20 + FINAL, ("a", "b", "c")),
    ],
)
def test_candidates_are_read(content, expected):
    assert parse_answer(content, 3) == expected


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "empty_answer"),
        (f"<think>{FINAL}", "empty_answer"),
        (f"<think><think>{FINAL}</think>{FINAL}", "empty_answer"),
        (f"<|channel|>analysis<|message|>{FINAL}", "empty_answer"),
        ('{"candidates": "a"}', "unparsable"),
        ('{"candidates": []}', "unparsable"),
        (f'{DRAFT} or {{"candidates": null}}', "unparsable"),
        ('{"draft": ["a"], "candidates": ["b', "unparsable"),
        ('{"terms": ["kidney"]}', "unparsable"),
        (FINAL[:20], "unparsable"),
        ("The left hip.", "unparsable"),
        ("[" * 100_000, "unparsable"),
        ('{"candidates": ["string"]}', "placeholder"),
        ('{"candidates": ["...", "rewritten answer 2", "<string>"]}', "placeholder"),
        ('{"type": "object", "properties": {"candidates": {"type": "array"}}}', "unparsable"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I cannot assist with medical images.", "refusal"),
        ('{"candidates": ["I’m unable to provide this.", "As an AI model, I cannot answer."]}', "refusal"),
    ],
)
def test_answers_without_candidates_have_a_code(content, code):
    with pytest.raises(AnswerError, match=f"^{code}$"):
        parse_answer(content, 3)


def test_reasoning_is_dropped_in_linear_time():
    assert drop_reasoning("<think>" * 100_000) == ""
    assert drop_reasoning("a<think>b</think>c") == "ac"


def choice(finish="stop", **message):
    """The body of a chat completion with this choice."""
    body = json.loads(completion(""))
    body["choices"] = [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}]
    return json.dumps(body)


PARTS = [{"type": "thinking", "thinking": DRAFT}, {"type": "text", "text": FINAL}]


@pytest.mark.parametrize(
    ("response", "code", "requests"),
    [
        (choice(content=None, reasoning_content=FINAL), "empty_answer", 1),
        (choice(content=FINAL, reasoning_content=DRAFT), None, 1),
        (choice(content=PARTS), None, 1),
        (choice(content=FINAL, finish="length"), "length", 1),
        (choice(content=None, refusal="I will not."), "refusal", 1),
        (choice(content=FINAL, finish="content_filter"), "content_filter", 1),
        (web.Response(status=400, text='{"error": {"code": "content_filter", "message": "no"}}'), "content_filter", 1),
        (choice(content=FINAL + " " * 5_000_000), "too_large", 1),
        (web.Response(status=500, text="x" * 5_000_000), "too_large", 1),
        (gzip.compress(b"[" + b" " * 50_000_000), "too_large", 1),
        (gzip.compress(choice(content=FINAL).encode()), None, 1),
        (b"not gzip", "connection", 2),
    ],
    ids=lambda value: str(value)[-30:].strip(),
)
def test_fault_matrix(response, code, requests):
    from llamafactory_clinkd.correct.client import OpenAICorrector

    def reply(row, headers):
        if isinstance(response, bytes):
            return web.Response(body=response, headers={"Content-Encoding": "gzip"}, content_type="application/json")
        if isinstance(response, str):
            return web.Response(text=response, content_type="application/json")
        return web.Response(status=response.status, text=response.text, content_type="application/json")

    with FaultServer(reply=reply) as server:
        corrector = OpenAICorrector(model="m", base_url=server.url, backoff=0.01, max_attempts=2)
        (result,) = [result for group in corrector.correct([ITEM]) for result in group]
        assert result == (ITEM.id, () if code else ("a", "b", "c"), code)
        assert server.requests.total() == requests
