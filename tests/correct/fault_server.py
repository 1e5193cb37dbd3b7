# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A chat-completions server on loopback that misbehaves in every way a real one does, by a script for each row.

A row's script is some transient faults (429 with Retry-After, 500, 503, a hang, a cut connection, half a body, a
proxy's HTML), one a request, and then one final answer for ever: good, or wrong in some way. So a run that is killed
and started again meets other faults but the same answers.
"""

import asyncio
import json
import random
import re
import threading
from collections import Counter

from aiohttp import web


TRANSIENT = ("429", "500", "503", "hang", "cut", "half_body", "html")
FINAL = (
    "good",
    "good",
    "good",
    "fenced",
    "broken_json",
    "wrong_boxes",
    "empty",
    "huge",
    "leak",
    "prose",
    "other_side",
)
ROW = re.compile(r"kidney (\d+)")
REFERENCE = re.compile(r"^Reference answer: (.*)$", re.MULTILINE)


def script_of(row: str, seed: int) -> tuple[list[str], str]:
    """The faults of a row's first requests, and its answer after them."""
    rng = random.Random(f"{seed}/{row}")
    return [rng.choice(TRANSIENT) for _ in range(rng.randrange(3))], rng.choice(FINAL)


def answer_text(kind: str, reference: str) -> str:
    reworded = reference.replace("is located", "is situated")
    candidates = {
        "wrong_boxes": [reworded.replace("(1", "(2"), reworded.replace(">(", ">((")],
        "huge": [reworded + " very" * 20000],
        "leak": [f"Keep the exact meaning of the reference answer, {reworded}"],
        "other_side": [reworded.replace("left", "right"), reworded.replace("is situated", "is not situated")],
    }.get(kind, [reworded, reference.replace("is located", "lies"), reference])
    text = json.dumps({"candidates": candidates})
    return {
        "fenced": f"Sure!\n```json\n{text}\n```",
        "broken_json": text[: len(text) // 2],
        "empty": "",
        "prose": reworded,
    }.get(kind, text)


class FaultServer:
    """Runs in a thread; use it as a context manager.

    Args:
        seed: Of the scripts.
        hang: Seconds that a hang is counted as in flight; the client must give up later than that.
        faults: Whether there are transient faults.
        reply: If given, called with (row, headers) to make the whole response instead of the script.
    """

    def __init__(self, seed: int = 0, hang: float = 0.1, faults: bool = True, reply=None):
        self.seed, self.hang, self.faults, self.reply = seed, hang, faults, reply
        self.requests: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.in_flight = self.most_in_flight = 0

    def __enter__(self) -> "FaultServer":
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        counted = True
        try:
            body = await request.json()
            self.bodies.append(body)
            prompt = body["messages"][0]["content"]
            found = ROW.search(prompt)
            row = found[1] if found else ""  # a recipe's own rows; `reply` answers them
            self.requests[row] += 1
            await asyncio.sleep(0.002)
            if self.reply is not None:
                return self.reply(row, request.headers)
            transient, final = script_of(row, self.seed)
            number = self.requests[row] - 1
            kind = transient[number] if self.faults and number < len(transient) else final
            self.kinds[kind] += 1
            if kind == "hang":
                await asyncio.sleep(self.hang)
                self.in_flight -= 1
                counted = False
                await asyncio.sleep(3600)
            return self._response(kind, request, REFERENCE.search(prompt)[1])
        finally:
            self.in_flight -= counted

    def _response(self, kind: str, request: web.Request, reference: str) -> web.StreamResponse:
        if kind == "cut":
            request.transport.abort()
            return web.Response()
        if kind == "429":
            return web.Response(status=429, headers={"Retry-After": "0.02"}, text="slow down")
        if kind in ("500", "503"):
            return web.Response(status=int(kind), text=f"internal error for {request.headers['Authorization']}")
        if kind == "html":
            return web.Response(text="<html>gateway</html>", content_type="text/html")
        whole = completion(answer_text(kind, reference))
        if kind == "half_body":
            return web.Response(text=whole[: len(whole) // 2], content_type="application/json")
        return web.Response(text=whole, content_type="application/json")


def completion(content: str) -> str:
    """A chat completion as JSON."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    )


def make_rows(count: int) -> list[dict]:
    """Rows of which every tenth was answered rightly."""
    rows = []
    for number in range(count):
        box = f"<box>(1{number % 90},20),(300,40{number % 10})</box>"
        truth = f"The left kidney {number} is located at {box} in this scan of the abdomen."
        rows.append(
            {
                "id": f"ct_{number}",
                "image": f"ct_{number}.png",
                "question": f"Where is the left kidney {number}?",
                "annotation": truth,
                "response": truth if number % 10 == 0 else "I see nothing.",
            }
        )
    return rows
