# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A chat-completions server on loopback that answers by rule, and fails when and how a test wants it to."""

import asyncio
import json
import threading

from aiohttp import web


class AnswerServer:
    """Answers ``answer to <last text> by <model>``; use it as a context manager.

    ``fault(question, number)`` returns the kind of fault of a question's request ``number`` (from 0), or None;
    ``first`` are the log-probabilities of a first token, or a function of the request; ``weights`` shifts them, as
    another model does. ``prompt`` maps a request to the ids that the server makes of it, or to their number;
    ``decode`` is its tokenizer's, if it has such an endpoint.
    """

    def __init__(self, fault=lambda question, number: None, *, kind="vllm", names=("m",), logprobs=True):
        self.fault, self.kind, self.names, self.logprobs = fault, kind, names, logprobs
        self.weights, self.first = 0.0, {"token_id:1": -0.5, "token_id:2": -1.5}
        self.prompt, self.decode = lambda body: 7, None
        self.bodies, self.counts = [], {}

    def __enter__(self):
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def asked(self):
        """The questions of real requests, those for the fixed rows' first tokens aside."""
        return [question_of(body) for body in self.bodies if body["max_tokens"] != 1]

    async def _serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**26)
        self._add_routes(app.router)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def _add_routes(self, router):
        router.add_post("/v1/chat/completions", self._handle)
        router.add_get("/v1/models", self._models)
        router.add_post("/detokenize", self._detokenize)

    async def _models(self, request):
        models = [{"id": name, "object": "model", "created": 0, "owned_by": self.kind} for name in self.names]
        return web.json_response({"object": "list", "data": models})

    async def _detokenize(self, request):
        if self.decode is None:
            return web.Response(status=404)
        return web.json_response({"prompt": self.decode((await request.json())["tokens"])})

    def _completion(self, body, choices, tokens=1):
        prompt = self.prompt(body)
        ids = prompt if isinstance(prompt, list) else None
        whole = completion(choices, tokens, prompt if ids is None else len(ids))
        return web.json_response(whole | ({"prompt_token_ids": ids} if body.get("return_token_ids") else {}))

    async def _handle(self, request):
        body = await request.json()
        self.bodies.append(body)
        question = question_of(body)
        if body["max_tokens"] == 1:
            if self.fault("first token", 0) == "gone":
                return web.Response(status=503)
            first = self.first(body) if callable(self.first) else self.first
            values = [{"token": t, "logprob": v - self.weights, "bytes": []} for t, v in first.items()]
            content = [{"token": "token_id:1", "logprob": -0.5, "bytes": [], "top_logprobs": values}]
            choice = {"logprobs": {"content": content} if self.logprobs else None}
            return self._completion(body, [choice | self._text("x")])
        number = self.counts[question] = self.counts.get(question, -1) + 1
        kind = self.fault(question, number)
        if kind == "gone":
            return web.Response(status=503)
        if (broken := await broken_response(request, kind)) is not None:
            return broken
        await asyncio.sleep(0.002)
        count = body.get("n", 1) - (kind == "too_few") + (kind == "too_many")
        content = [{"token": "t", "logprob": -0.25, "bytes": [], "top_logprobs": []}] * 3
        name = f"{body['model']}+{self.weights}"
        choices = []
        for index in range(count):
            text = f"answer {index} to {question} by {name}<|im_end|>"
            choice = {"index": index, "logprobs": {"content": content} if self.logprobs else None}
            choices.append(choice | self._text(text, {"cut": "length", "abort": "abort"}.get(kind, "stop")))
        if kind == "null":
            choices[0]["message"]["content"] = None
        return self._completion(body, choices, tokens=3 * count)

    @staticmethod
    def _text(text, finish="stop"):
        return {"finish_reason": finish, "message": {"role": "assistant", "content": text}}


async def broken_response(request, kind):
    """What a server in trouble gives: an error by its status, nothing in time, a cut connection or another page."""
    if kind in ("400", "404", "500", "503"):
        return web.Response(status=int(kind), text="CUDA out of memory")
    if kind == "closed":  # for longer than a run waits
        return web.Response(status=503, headers={"Retry-After": "1000"})
    if kind == "hang":
        await asyncio.sleep(3600)
    if kind == "drop":
        request.transport.abort()
        return web.Response()
    if kind == "html":
        return web.Response(text="<html>gateway</html>", content_type="text/html")
    return None


def question_of(body):
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def completion(choices, tokens, prompt_tokens):
    choices = [{"index": index, **choice} for index, choice in enumerate(choices)]
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage}
    return json.loads(json.dumps(whole))
