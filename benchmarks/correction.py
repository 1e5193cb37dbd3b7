# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What Reflective Correction costs: requests in flight against one by one, and judging batched against one by one.

    python benchmarks/correction.py --json correction.json

The server is on loopback, answers every request after a fixed latency and does nothing else, so the first figure is
the corrector's own. The second uses the default sentence model, on as many threads as torch takes.
"""

import argparse
import asyncio
import json
import random
import threading
import time
from contextlib import contextmanager

from aiohttp import web
from rich.console import Console
from rich.progress import track
from rich.table import Table

from llamafactory_clinkd.correct import CorrectionItem, judge, load_similarity
from llamafactory_clinkd.correct.client import OpenAICorrector
from llamafactory_clinkd.utils.io import write_json


ORGANS = "liver spleen sacrum pancreas aorta stomach kidney bladder heart trachea rib hip femur lung brain".split()
FINDINGS = "mass cyst nodule fracture effusion lesion calcification hernia edema stenosis".split()


def sentence(rng: random.Random) -> str:
    side, size = rng.choice(["left", "right"]), rng.randrange(2, 60)
    first, second = rng.sample(ORGANS, 2)
    return f"There is a {rng.choice(FINDINGS)} of {size} mm in the {side} {first}, next to the {second}."


@contextmanager
def slow_server(latency: float):
    """A chat-completions server on loopback that answers after ``latency`` seconds; yields its base URL."""
    content = json.dumps({"candidates": ["one", "two", "three"]})
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    started, box = threading.Event(), {}

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(latency)
        return web.json_response(answer)

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        box.update(
            url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1", loop=asyncio.get_running_loop(), stop=asyncio.Event()
        )
        started.set()
        await box["stop"].wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    started.wait()
    try:
        yield box["url"]
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join()


def correction_rate(url: str, samples: int, concurrency: int) -> float:
    """Samples a second."""
    rng = random.Random(0)
    items = [CorrectionItem(str(n), "What is seen?", sentence(rng), sentence(rng)) for n in range(samples)]
    corrector = OpenAICorrector(model="m", base_url=url, concurrency=concurrency)
    start = time.perf_counter()
    groups = track(corrector.correct(items), f"{samples} samples, {concurrency} in flight", total=None, transient=True)
    answered = sum(len(result.candidates) == 3 for group in groups for result in group)
    seconds = time.perf_counter() - start
    if answered != samples:
        raise RuntimeError(f"{samples - answered} of {samples} samples were not answered.")
    return samples / seconds


def judge_rate(similarity, pairs: int, block: int) -> tuple[float, float]:
    """Pairs a second, and pairs a second of processor time, judged ``block`` at a time; every text occurs once."""
    rng = random.Random(block)
    rows = [
        {"id": str(n), "annotation": f"{sentence(rng)} {n}", "response": f"{n} {sentence(rng)}"} for n in range(pairs)
    ]
    start, processor = time.perf_counter(), time.process_time()
    for place in track(range(0, pairs, block), f"{pairs} pairs, {block} at a time", transient=True):
        judge(rows[place : place + block], similarity)
    return pairs / (time.perf_counter() - start), pairs / (time.process_time() - processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--latency", type=float, default=0.2, help="of the server, in seconds")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=10_000, help="judged in one batch")
    parser.add_argument("--single-pairs", type=int, default=1_000, help="judged one by one: their rate is the same")
    parser.add_argument("--device", default="cpu", help="of the sentence model")
    parser.add_argument("--json", help="write the numbers here")
    args = parser.parse_args()

    with slow_server(args.latency) as url:
        correction_rate(url, args.concurrency, args.concurrency)  # imports and connections are warm after it
        parallel = correction_rate(url, args.samples, args.concurrency)
        serial = correction_rate(url, args.samples, 1)
    similarity = load_similarity("sentence", device=args.device)
    judge_rate(similarity, 64, 64)
    batched, batched_processor = judge_rate(similarity, args.pairs, args.pairs)
    single, single_processor = judge_rate(similarity, args.single_pairs, 1)

    table = Table("what", "rate (1/s)", "against", "factor", title="Reflective Correction")
    latency = f"{1000 * args.latency:.0f} ms server"
    table.add_row(f"{args.samples} samples, {latency}, 1 in flight", f"{serial:.1f}", "", "")
    table.add_row(
        f"{args.samples} samples, {latency}, {args.concurrency} in flight",
        f"{parallel:.1f}",
        "1 in flight",
        f"{parallel / serial:.1f}",
    )
    table.add_row(f"judging {args.single_pairs} pairs one by one", f"{single:.1f}", "", "")
    table.add_row(f"judging {args.pairs} pairs batched", f"{batched:.1f}", "one by one", f"{batched / single:.1f}")
    if args.device == "cpu":
        factor = f"{batched_processor / single_processor:.1f}"
        table.add_row("the first, a second of processor time", f"{single_processor:.1f}", "", "")
        table.add_row("the second, a second of processor time", f"{batched_processor:.1f}", "one by one", factor)
    Console().print(table)
    if args.json:
        numbers = {
            "correction": {"serial_per_s": serial, "parallel_per_s": parallel, "factor": parallel / serial},
            "judge": {
                "single_per_s": single,
                "batched_per_s": batched,
                "factor": batched / single,
                "single_per_processor_s": single_processor,
                "batched_per_processor_s": batched_processor,
            },
            "similarity": similarity.name,
            "arguments": vars(args),
        }
        write_json(args.json, numbers)


if __name__ == "__main__":
    main()
