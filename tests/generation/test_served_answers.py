# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Generation by a server that fails in every way a real one does: nothing is lost, and the same call continues."""

import base64
import io
import json
import random

import pytest
from PIL import Image

from llamafactory_clinkd.utils.io import read_json, read_jsonl

from .answer_server import AnswerServer


pytest.importorskip("openai", reason="the openai client is not installed")

COUNT = 60
MODEL_OPTIONS = ("timeout", "max_attempts", "concurrency", "name", "same_processor")
IDS = [f"{number}:row" for number in range(COUNT)]
GREEDY = {"max_new_tokens": 8, "num_beams": 1, "repetition_penalty": 1.0, "top_k": 50}
BEAMS = GREEDY | {"num_beams": 3, "length_penalty": 1.0}
SAMPLES = GREEDY | {"do_sample": True, "temperature": 0.7, "top_p": 0.9}


def messages(index):
    return [{"role": "user", "content": f"question {index}"}]


def generate(server, path, **options):
    from llamafactory_clinkd.generation.served_answers import generate_by_server
    from llamafactory_clinkd.generation.served_model import ServedModel

    model = {key: options.pop(key) for key in MODEL_OPTIONS if key in options}
    served = ServedModel(server.url, **{"concurrency": 8, "max_attempts": 3, "backoff": 0.001, "timeout": 5, **model})
    options = {"gen_kwargs": GREEDY, "eos_token": "<|im_end|>", **options}
    return generate_by_server(served, options.pop("messages", messages), IDS, path, **options)


def expected(index, number=0, model="m+0.0"):
    return f"answer {number} to question {index} by {model}"


def test_rows_are_those_of_local_generation(tmp_path):
    with AnswerServer() as server:
        rows = generate(server, tmp_path / "answers.jsonl")
    assert [row["id"] for row in rows] == IDS and rows == read_jsonl(tmp_path / "answers.jsonl")
    assert rows[7] == {"id": IDS[7], "candidates": [{"text": expected(7), "logprob": -0.25}], "tokens": 3}
    assert sorted(server.asked()) == sorted(f"question {index}" for index in range(COUNT))


@pytest.mark.parametrize(
    ("settings", "wanted", "sent"),
    [
        (BEAMS, 1, {"n": 3, "temperature": 0, "use_beam_search": True, "length_penalty": 1.0}),
        (SAMPLES, 1, {"n": 1, "temperature": 0.7, "top_p": 0.9, "top_k": 50}),
        (GREEDY, 1, {"n": 1, "temperature": 0}),
    ],
)
def test_beams_and_samples_are_requested(tmp_path, settings, wanted, sent):
    with AnswerServer() as server:
        rows = generate(server, tmp_path / "a.jsonl", gen_kwargs=settings, num_candidates=wanted, seed=3)
    asked = [body for body in server.bodies if body["max_tokens"] != 1]
    for body in asked:
        assert sent.items() <= body.items() and body["max_tokens"] == 8 and body["skip_special_tokens"] is False
        assert ("top_k" in body) == ("top_k" in sent)
    assert {len(row["candidates"]) for row in rows} == {wanted}
    seeds = {body.get("seed") for body in asked}
    assert len(seeds) == COUNT if settings is SAMPLES else seeds == {None}


def test_the_first_of_several_samples_is_the_greedy_answer(tmp_path):
    with AnswerServer() as server:
        rows = generate(server, tmp_path / "a.jsonl", gen_kwargs=SAMPLES, num_candidates=3, seed=3)
    asked = [body for body in server.bodies if body["max_tokens"] != 1]
    greedy, sampled = ([body for body in asked if body["n"] == n] for n in (1, 2))
    assert len(greedy) == len(sampled) == COUNT == len({body["seed"] for body in sampled})
    assert all(body["temperature"] == 0 and "top_p" not in body and "seed" not in body for body in greedy)
    assert all(body["temperature"] == 0.7 and body["top_p"] == 0.9 for body in sampled)
    assert [each["text"] for each in rows[7]["candidates"]] == [expected(7), expected(7), expected(7, 1)]
    assert rows[7]["tokens"] == 9 and read_json(tmp_path / "a.jsonl.settings.json")["greedy_first"]


def test_a_server_without_beams_is_refused_for_several(tmp_path, caplog):
    with AnswerServer(kind="owner", logprobs=False) as server:
        with pytest.raises(ValueError, match="sasg_mode: sample"):
            generate(server, tmp_path / "a.jsonl", gen_kwargs=BEAMS, num_candidates=3)
        rows = generate(server, tmp_path / "b.jsonl", gen_kwargs=BEAMS)
        assert rows[0]["candidates"] == [{"text": expected(0), "logprob": None}]
        generate(server, tmp_path / "c.jsonl", gen_kwargs=SAMPLES, num_candidates=2)
    assert "no beam search" in caplog.text and "Not sent" in caplog.text
    assert all("top_k" not in body for body in server.bodies)


def test_transient_faults_lose_nothing(tmp_path):
    kinds = ["500", "503", "drop", "html", "hang", None]

    def fault(question, number):
        return random.Random(f"{question}{number}").choice(kinds) if number < 2 else None

    with AnswerServer(fault) as server:
        rows = generate(server, tmp_path / "answers.jsonl", timeout=0.5)
    assert [row["candidates"][0]["text"] for row in rows] == [expected(index) for index in range(COUNT)]
    assert len(server.asked()) > 1.5 * COUNT


@pytest.mark.parametrize(
    ("kind", "code"),
    [("too_few", "wrong_count"), ("too_many", "wrong_count"), ("cut", "cut"), ("abort", "finish_abort")]
    + [("null", "bad_body"), ("500", "http_500"), ("hang", "timeout")],
)
def test_a_bad_answer_is_recorded_at_its_row_and_asked_for_again(tmp_path, kind, code):
    bad = {f"question {index}" for index in (3, 30)}
    with AnswerServer(lambda question, number: kind if question in bad else None) as server:
        rows = generate(server, tmp_path / "answers.jsonl", timeout=0.5)
        failed = {row["id"]: row["error"] for row in rows if "error" in row}
        assert failed == dict.fromkeys((IDS[3], IDS[30]), f"the server's answer: {code}")
        server.fault = lambda question, number: None
        server.bodies.clear()
        rows = generate(server, tmp_path / "answers.jsonl")
    assert sorted(server.asked()) == sorted(bad)
    assert [row["candidates"][0]["text"] for row in rows] == [expected(index) for index in range(COUNT)]


def test_a_server_that_goes_is_waited_for_by_the_next_run(tmp_path):
    from llamafactory_clinkd.generation.served_model import ServerError

    with AnswerServer() as server:
        server.fault = lambda question, number: "gone" if len(server.asked()) > 30 else None
        with pytest.raises(ServerError, match=r"does not answer \(http_503\)"):
            generate(server, tmp_path / "answers.jsonl")
        kept = read_jsonl(tmp_path / "answers.jsonl.rank0")
        assert 0 < len(kept) <= 30 and not any("error" in row for row in kept)
    with pytest.raises(ServerError, match=r"does not answer \(connection\)"):
        generate(server, tmp_path / "answers.jsonl")
    with AnswerServer() as again:
        rows = generate(again, tmp_path / "answers.jsonl")
        assert len(again.asked()) == COUNT - len(kept)
    assert [row["candidates"][0]["text"] for row in rows] == [expected(index) for index in range(COUNT)]


def test_a_server_that_restarts_with_another_model_mixes_no_answers(tmp_path):
    from llamafactory_clinkd.generation.served_model import ServerError

    with AnswerServer() as server:

        def fault(question, number):
            server.weights = 1.0 if len(server.asked()) > 30 else 0.0

        server.fault = fault
        with pytest.raises(ServerError, match="does not serve the model"):
            generate(server, tmp_path / "answers.jsonl")
        kept = read_jsonl(tmp_path / "answers.jsonl.rank0")
        server.fault = lambda question, number: None
        with pytest.raises(ServerError, match="earlier answers"):  # still the other one, at a new start
            generate(server, tmp_path / "answers.jsonl")
        server.weights = 0.0
        rows = generate(server, tmp_path / "answers.jsonl")
    assert 0 < len(kept) < 31
    assert [row["candidates"][0]["text"] for row in rows] == [expected(index) for index in range(COUNT)]


@pytest.mark.parametrize(
    ("shift", "limit", "same"),
    [(0.00005, "float32", True), (0.0002, "float32", False), (0.05, "16 bits", True), (0.3, "16 bits", False)],
)
def test_the_model_of_the_phase_is_recognised(tmp_path, shift, limit, same):
    from llamafactory_clinkd.generation.served_model import FIXED_ROWS, ServerError

    local = [{"token_id:1": -0.5, "token_id:2": -1.5, "token_id:3": -9.0}] * FIXED_ROWS
    with AnswerServer() as server:
        server.weights = shift
        if same:
            assert len(generate(server, tmp_path / "a.jsonl", expected=(local, limit))) == COUNT
            return
        with pytest.raises(ServerError, match="does not serve the model of this phase"):
            generate(server, tmp_path / "a.jsonl", expected=(local, limit))
        assert server.asked() == [] and not (tmp_path / "a.jsonl").exists()
        server.logprobs = False
        with pytest.raises(ServerError, match="no log-probabilities"):
            generate(server, tmp_path / "a.jsonl", expected=(local, limit))


def test_without_any_good_row_the_set_up_is_broken(tmp_path):
    with AnswerServer(lambda question, number: "too_few") as server, pytest.raises(RuntimeError, match="wrong_count"):
        generate(server, tmp_path / "answers.jsonl")


def test_the_model_s_name_is_found_or_named(tmp_path):
    from llamafactory_clinkd.generation.served_model import ServerError

    with AnswerServer(names=("a", "b")) as server:
        with pytest.raises(ServerError, match="name one as `generation_model`"):
            generate(server, tmp_path / "a.jsonl")
        with pytest.raises(ServerError, match="not `generation_model: c`"):
            generate(server, tmp_path / "a.jsonl", name="c")
        generate(server, tmp_path / "a.jsonl", name="b")
        with pytest.raises(ValueError, match="server_model: was b, now a"):
            generate(server, tmp_path / "a.jsonl", name="a")


def test_a_stop_keeps_what_is_there(tmp_path):
    from llamafactory_clinkd.generation import UnfinishedError

    with AnswerServer() as server:
        with pytest.raises(UnfinishedError):
            generate(server, tmp_path / "a.jsonl", should_stop=lambda: len(server.asked()) > 20)
        before = len(read_jsonl(tmp_path / "a.jsonl.rank0"))
        assert 0 < before < COUNT and len(generate(server, tmp_path / "a.jsonl")) == COUNT


def test_ranks_share_the_rows(tmp_path):
    from llamafactory_clinkd.generation import UnfinishedError

    with AnswerServer() as server:
        with pytest.raises(UnfinishedError):  # the other rank's are missing
            generate(server, tmp_path / "a.jsonl", process_index=0, num_processes=2, barrier=lambda: None)
        assert len(server.asked()) == COUNT / 2
        rows = generate(server, tmp_path / "a.jsonl", process_index=0)
    assert [row["candidates"][0]["text"] for row in rows] == [expected(index) for index in range(COUNT)]


class Plugin:
    def _regularize_images(self, images, image_max_pixels, image_min_pixels):
        assert (image_max_pixels, image_min_pixels) == (100, 10)
        return {"images": [image.resize((28, 28)) for image in images]}


def test_messages_hold_the_pixels_of_the_model():
    from types import SimpleNamespace

    from llamafactory_clinkd.generation.chat_rows import ChatRows

    red, blue = Image.new("RGB", (40, 60), "red"), Image.new("RGB", (40, 60), "blue")
    prompt = [
        {"role": "user", "content": "a <image> b"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "<image>\nd"},
    ]
    aligned = [{"_prompt": prompt, "_system": "", "_images": [red, blue], "_videos": None}]
    template = SimpleNamespace(default_system="be brief", mm_plugin=Plugin())
    processor = SimpleNamespace(image_max_pixels=100, image_min_pixels=10)
    system, first, second, third = ChatRows(aligned, template, processor)(0)
    assert system == {"role": "system", "content": "be brief"} and second == {"role": "assistant", "content": "c"}
    assert [part.get("text") for part in first["content"]] == ["a ", None, " b"]
    assert [part.get("text") for part in third["content"]] == [None, "\nd"]
    for part, colour in ((first["content"][1], (255, 0, 0)), (third["content"][0], (0, 0, 255))):
        data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert picture.size == (28, 28) and picture.getpixel((3, 3)) == colour
    for change, message in (
        ({"_videos": ["v.mp4"]}, "Videos"),
        ({"_prompt": [{"role": "observation", "content": ""}]}, "observation"),
    ):
        with pytest.raises(ValueError, match=message):
            ChatRows([aligned[0] | change], template, processor)(0)
    assert json.dumps(first)
