# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json
import logging
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from aiohttp import web

from llamafactory_clinkd.correct import CorrectionItem, make_corrector
from llamafactory_clinkd.correct.corrector import Usage

from .fault_server import FaultServer, answer_text, completion, make_rows, script_of


pytest.importorskip("openai", reason="the openai client is not installed")

ITEMS = [CorrectionItem(r["id"], r["question"], r["annotation"], r["response"]) for r in make_rows(60)]


def corrector(server, **options):
    from llamafactory_clinkd.correct.client import OpenAICorrector

    return OpenAICorrector(**{"model": "m", "base_url": server.url, "timeout": 0.4, "backoff": 0.01, **options})


def results(corrector, items=ITEMS):
    return [result for group in corrector.correct(items) for result in group]


def reply(status=200, text="", headers=None, content_type="application/json"):
    return lambda row, request_headers: web.Response(
        status=status, text=text, headers=headers, content_type=content_type
    )


def test_every_fault_ends_in_one_result_each_within_the_bound():
    with FaultServer(seed=3) as server:
        found = results(corrector(server, concurrency=8))
        assert Counter(r.id for r in found) == Counter(item.id for item in ITEMS)
        assert 2 <= server.most_in_flight <= 8
        assert {"429", "500", "503", "hang", "cut", "half_body", "html", "good", "huge"} <= set(server.kinds)
    errors = {"empty": "empty_answer", "broken_json": "unparsable", "prose": "unparsable"}
    for result in found:
        _, final = script_of(result.id.removeprefix("ct_"), 3)
        assert result.error == errors.get(final)
        assert bool(result.candidates) == (result.error is None)


def test_one_request_covers_all_candidates_and_tokens_are_counted():
    with FaultServer(seed=3, reply=reply(text=completion(answer_text("good", "It is located.")))) as server:
        one = corrector(server, candidates=2)
        assert [r.candidates for r in results(one, ITEMS[:5])] == [("It is situated.", "It lies.")] * 5
        assert one.usage == Usage(requests=5, prompt_tokens=35, completion_tokens=15)
        body = server.bodies[0]
        assert body["model"] == "m" and body["response_format"]["type"] == "json_schema"
        (message,) = body["messages"]
        assert isinstance(message["content"], str) and "image" not in str(message.keys())


@pytest.mark.parametrize("usage", [[], {}, {"prompt_tokens": "12", "completion_tokens": None}, "much", None])
def test_an_odd_count_of_tokens_spoils_no_answer(usage):
    body = json.dumps({**json.loads(completion('["reworded"]')), "usage": usage})
    with FaultServer(reply=reply(text=body)) as server:
        one = corrector(server)
        assert [r.candidates for r in results(one, ITEMS[:3])] == [("reworded",)] * 3
        assert one.usage == Usage(requests=3)


def test_a_body_that_is_not_utf_8_is_retried():
    def answer(row, headers):
        latin = completion('["sténose"]').replace("\\u00e9", "é").encode("latin-1")
        return web.Response(body=latin, content_type="application/json")

    with FaultServer(reply=answer) as server:
        (result,) = results(corrector(server, max_attempts=2), ITEMS[:1])
        assert result.error == "bad_body" and server.requests.total() == 2


@pytest.mark.parametrize(("key", "expected"), [("sk-" + "secret" * 3, "[key]"), ("none", "none")])
def test_a_key_in_an_answer_is_redacted(monkeypatch, key, expected):
    """A placeholder is no secret, and may be a word of an honest answer."""
    monkeypatch.setenv("OPENAI_API_KEY", key)

    def answer(row, headers):
        return web.Response(text=completion(f'["see {headers["Authorization"]}"]'), content_type="application/json")

    with FaultServer(reply=answer) as server:
        assert results(corrector(server), ITEMS[:1])[0].candidates == (f"see Bearer {expected}",)


def test_a_server_without_structured_output_gets_plain_requests():
    def answer(row, headers):
        if "response_format" in server.bodies[-1]:
            return web.Response(status=400, text="response_format is not supported")
        return web.Response(text=completion('["reworded"]'), content_type="application/json")

    with FaultServer(reply=answer) as server:
        found = results(corrector(server, concurrency=1), ITEMS[:4])
        assert [r.candidates for r in found] == [("reworded",)] * 4
        assert ["response_format" in body for body in server.bodies] == [True] + [False] * 4


def test_retry_after_is_waited_for():
    times = []

    def answer(row, headers):
        times.append(time.monotonic())
        if len(times) == 1:
            return web.Response(status=429, headers={"Retry-After": "0.5"})
        return web.Response(text=completion('["reworded"]'), content_type="application/json")

    with FaultServer(reply=answer) as server:
        assert results(corrector(server, concurrency=1), ITEMS[:1])[0].error is None
    assert times[1] - times[0] >= 0.5


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("3", 3, 3),
        ("0.5", 0.5, 0.5),
        ("-1", 0, 0),
        ("nan", 0, 0),
        ("soon", 0, 0),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", 0, 0),
        ("Mon, 01 Jan 2026 00:00:00 +99999999999999", 0, 0),
        ("", 0, 0),
        (format_datetime(datetime(2001, 1, 1, tzinfo=UTC), usegmt=True), 0, 0),
    ],
)
def test_retry_after_forms(value, low, high):
    from llamafactory_clinkd.utils.chat_client import retry_after

    error = SimpleNamespace(response=SimpleNamespace(headers={"retry-after": value}))
    assert low <= retry_after(error) <= high


def test_retry_after_as_a_date_to_come():
    from llamafactory_clinkd.utils.chat_client import retry_after

    value = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    error = SimpleNamespace(response=SimpleNamespace(headers={"retry-after": value}))
    assert 3500 <= retry_after(error) <= 3600


def test_a_too_long_retry_after_fails_the_row():
    with FaultServer(reply=reply(429, headers={"Retry-After": "100000"})) as server:
        (result,) = results(corrector(server), ITEMS[:1])
        assert result.error == "http_429" and server.requests.total() == 1


@pytest.mark.parametrize(
    ("status", "text", "content_type", "code"),
    [
        (500, "", "text/plain", "http_500"),
        (200, "<html>", "text/html", "bad_body"),
        (200, '{"choices": []}', "application/json", "bad_body"),
        (200, '{"choices": [{}]}', "application/json", "bad_body"),
        (200, '{"choices": [{"message": "text"}]}', "application/json", "bad_body"),
        (200, "[" * 100_000, "application/json", "bad_body"),
        (200, "[1]", "application/json", "bad_body"),
        (200, '{"id', "application/json", "bad_body"),
    ],
)
def test_attempts_are_bounded(status, text, content_type, code):
    with FaultServer(reply=reply(status, text, content_type=content_type)) as server:
        (result,) = results(corrector(server, max_attempts=3), ITEMS[:1])
        assert result == (ITEMS[0].id, (), code)
        assert server.requests.total() == 3


def test_a_refusal_stops_the_requests_and_is_logged_once(caplog):
    with FaultServer(reply=reply(401)) as server, caplog.at_level(logging.INFO):
        found = results(corrector(server, concurrency=2))
        assert {r.error for r in found} == {"http_401"} and len(found) == len(ITEMS)
        assert server.requests.total() <= 2
    assert caplog.text.count("check OPENAI_API_KEY") == 1


def test_a_dead_server_ends_the_round(caplog):
    with FaultServer() as server:
        pass  # nothing listens on its port any more
    found = results(corrector(server, concurrency=2, max_attempts=2, backoff=0.001))
    assert len(found) == len(ITEMS)
    codes = Counter(r.error for r in found)
    assert set(codes) == {"connection", "unreachable"} and 20 <= codes["connection"] <= 22
    assert "rows failed one after another" in caplog.text


def test_the_budget_counts_retries_and_what_was_spent_before():
    with FaultServer(seed=3) as server:
        one = corrector(server, max_requests=30, concurrency=4)
        one.start_round(Usage(requests=10))
        found = results(one)
        assert len(found) == len(ITEMS)
        assert server.requests.total() <= 20 and one.usage.requests == 30  # of one that timed out it may see nothing
        assert Counter(r.error for r in found)["budget"] >= len(ITEMS) - 20


def test_closing_early_ends_the_requests():
    with FaultServer(reply=reply(500)) as server:
        stream = corrector(server, backoff=60, concurrency=2).correct(ITEMS)
        stream.close()
        slow = corrector(server, max_attempts=1, concurrency=1).correct(ITEMS)
        next(slow)
        slow.close()
        time.sleep(0.2)  # a request on its way when it was cancelled may still be counted
        after = server.requests.total()
        time.sleep(0.2)
        assert server.requests.total() == after < len(ITEMS)


def test_an_error_of_the_items_is_raised():
    def items():
        yield ITEMS[0]
        raise OSError("the rows cannot be read")

    with FaultServer(faults=False) as server, pytest.raises(ExceptionGroup) as caught:
        results(corrector(server, concurrency=1), items())
    assert caught.group_contains(OSError, match="cannot be read")


@pytest.mark.parametrize("key", ["candidates", "concurrency", "max_requests"])
def test_bad_values(key):
    with pytest.raises(ValueError, match=f"correction_{key} is 0"):
        make_corrector("openai", base_url="http://127.0.0.1:1/v1", **{key: 0})
