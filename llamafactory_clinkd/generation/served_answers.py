# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Generation by a server: the same rows and files as :mod:`.generate`, without a local ``generate``.

An answer is kept only after the server has shown, later than the answer came, that it still serves the same model.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..utils.chat_client import RequestError
from ..utils.console import bars_of_parts, console
from ..utils.io import append_jsonl, content_hash, read_json, write_json
from .decode import base_model, model_inputs, preserve_training_state
from .generate import MAX_FAILED_FIRST, check_arguments, merge_all
from .served_model import FIXED_ROWS, TOKEN_SERVERS, ServedModel, require_same
from .served_prompts import Prompts
from .shards import Row, check_settings, read_shards, shard_path


logger = logging.getLogger(__name__)
ENDED = ("stop", "length", "eos", "eos_token", "end_turn")


def generate_by_server(
    served: ServedModel,
    messages: Callable[[int], list[dict[str, Any]]],
    row_ids: Sequence[str],
    out_path: str | Path,
    *,
    gen_kwargs: Mapping[str, Any],
    num_candidates: int = 1,
    process_index: int = 0,
    num_processes: int = 1,
    barrier: Callable[[], Any] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: bool | str | None = None,
    seed: int = 0,
    expected: tuple[list[dict[str, float]], str] | None = None,
    prompts: Prompts | None = None,
    eos_token: str = "",
) -> Sequence[Row]:
    """As :func:`.generate.generate_rows`, with the answers of a server; the arguments of the same names mean the same.

    Args:
        served: The server.
        messages: Row number -> messages of a chat, see :class:`.chat_rows.ChatRows`.
        row_ids: A unique id for each row.
        out_path: The result; beside it ``<out_path>.server.json`` records the first tokens of the fixed rows.
        gen_kwargs: Of ``model.generate``; the ones that a server takes are sent.
        num_candidates: Answers per row.
        process_index: This rank.
        num_processes: The number of ranks, each of which sends its own rows.
        barrier: Waits for all ranks.
        should_stop: Called about once a second.
        progress: See there.
        seed: For sampling.
        expected: :func:`first_tokens` of the local model that the server must serve; None for any model.
        prompts: What the run makes of each row; None to leave out the comparison with the server's prompts.
        eos_token: Removed from the end of an answer.

    Raises:
        ServerError: If the server does not answer, reads the rows otherwise, serves another model, or does so later;
            the same command continues.
        ValueError, RuntimeError, UnfinishedError: See there.
    """
    out_path = Path(out_path)
    barrier, numbers = check_arguments(row_ids, row_ids, num_processes, barrier)
    served.find_model()
    options = request_options(gen_kwargs, num_candidates, served.kind)
    recorded = {"server_model": served.name, **options, "num_candidates": num_candidates, "seed": seed}
    recorded |= {"greedy_first": True} if options["temperature"] and num_candidates > 1 else {}
    check_settings(out_path, recorded, process_index)
    done = read_shards(out_path, numbers).good
    barrier()

    compared = fixed_rows(len(row_ids))
    fixed = [messages(index) for index in compared]
    firsts = [served.first_token_and_prompt(chat) for chat in fixed]
    shown = dict(zip(compared, (prompt for _, prompt in firsts), strict=True))
    counted = prompts is not None and prompts.compare(served, shown)
    reference, what = _reference([tokens for tokens, _ in firsts], out_path, expected, process_index)
    waiting = np.flatnonzero(~done)[process_index::num_processes].tolist()

    parts = [options]
    if "greedy_first" in recorded:
        greedy = {key: value for key, value in options.items() if key != "top_p"} | {"n": 1, "temperature": 0}
        parts = [greedy, options | {"n": num_candidates - 1}]

    async def answer(client: Any, index: int) -> tuple[int, Row | Exception]:
        try:
            chat, row = messages(index), {"candidates": [], "tokens": 0}
            length = len(prompts.ids(index)) if counted else None
            for part in parts:
                seeded = part | ({"seed": _row_seed(seed, row_ids[index])} if part["temperature"] else {})
                limits = {"num_candidates": num_candidates, "eos_token": eos_token, "prompt_tokens": length}
                read = partial(read_answer, options=part, **limits)
                answers = await served.complete(client, chat, read, **seeded)
                row = {key: row[key] + answers[key] for key in row}
            return index, row
        except (RequestError, ValueError, OSError) as error:  # a failed request, an unreadable picture
            return index, error

    kept = failed = 0
    title = progress if isinstance(progress, str) else "generate by a server"
    with bars_of_parts(console if progress and process_index == 0 and waiting else None) as show, ExitStack() as stack:
        show(title, 0, len(waiting))
        groups = served.server.stream(waiting, answer, min(served.concurrency, len(waiting)))
        for number, group in enumerate(stack.enter_context(closing(groups))):
            if group:
                position = number % len(fixed)
                require_same([served.first_token(fixed[position])], [reference[position]], what)
                rows = [_row(row_ids[index], found) for index, found in group]
                failed += sum("error" in row for row in rows)
                kept += sum("error" not in row for row in rows)
                if failed >= MAX_FAILED_FIRST and not kept:
                    raise RuntimeError(f"The first {failed} rows all failed, the last one with: {rows[-1]['error']}")
                append_jsonl(shard_path(out_path, process_index), rows)
                show(title, kept + failed, len(waiting))
            if should_stop():
                break
    return merge_all(out_path, numbers, process_index, barrier)


def request_options(gen_kwargs: Mapping[str, Any], num_candidates: int, kind: str) -> dict[str, Any]:
    """The fields of a chat completion that mean what ``gen_kwargs`` mean to ``model.generate``.

    Raises:
        ValueError: If this kind of server has no beam search and several candidates are wanted.
    """
    sampling = bool(gen_kwargs.get("do_sample"))
    beams = 1 if sampling else max(int(gen_kwargs.get("num_beams") or 1), num_candidates)
    extra = {"skip_special_tokens": False} if kind in TOKEN_SERVERS else {}
    options: dict[str, Any] = {"max_tokens": gen_kwargs["max_new_tokens"], "temperature": 0, "n": 1, "logprobs": True}
    if kind not in TOKEN_SERVERS:
        del options["logprobs"]  # some servers refuse it
    penalty = gen_kwargs.get("repetition_penalty")
    if sampling:
        options |= {"n": num_candidates, "temperature": gen_kwargs.get("temperature") or 1.0}
        options["top_p"] = gen_kwargs.get("top_p") or 1.0
        sent = {"top_k": gen_kwargs.get("top_k") or None, "repetition_penalty": penalty}
    elif beams > 1 and kind == "vllm":
        extra |= {"use_beam_search": True, "length_penalty": gen_kwargs.get("length_penalty") or 1.0}
        options["n"] = beams
        sent = {}
    elif num_candidates > 1:
        raise ValueError(
            f"Found {num_candidates} beams, and only vLLM searches with beams; this server is {kind or 'unknown'}: "
            "Set `sasg_mode: sample`, `sasg_candidates: 1`, or use vLLM."
        )
    else:
        if beams > 1:
            logger.warning("This server (%s) has no beam search: its answers are greedy.", kind or "unknown")
        sent = {"repetition_penalty": penalty}
    sent = {name: value for name, value in sent.items() if value not in (None, 1.0)}
    if sent and kind not in TOKEN_SERVERS:
        logger.warning("Not sent, as only vLLM and SGLang take them: %s.", ", ".join(sent))
        sent = {}
    return options | ({"extra_body": extra | sent} if extra or sent else {})


def read_answer(
    completion: Any,
    options: Mapping[str, Any],
    num_candidates: int,
    eos_token: str = "",
    prompt_tokens: int | None = None,
) -> Row:
    """``{"candidates", "tokens"}`` of a completion.

    Raises:
        RequestError: ``wrong_count``, ``cut`` by a context that is too short, ``finish_...`` without an end, or
            ``other_prompt`` if the server counts other than ``prompt_tokens``.
        AttributeError, TypeError: If it is no completion with texts.
    """
    choices = sorted(completion.choices, key=lambda choice: choice.index)
    usage = getattr(getattr(completion, "usage", None), "completion_tokens", None)
    usage = usage if isinstance(usage, int) else 0
    if prompt_tokens is not None and getattr(completion.usage, "prompt_tokens", None) != prompt_tokens:
        raise RequestError("other_prompt")
    if len(choices) != options["n"]:
        raise RequestError("wrong_count")
    candidates, tokens = [], 0
    for choice in choices:
        values = [token.logprob for token in getattr(getattr(choice, "logprobs", None), "content", None) or []]
        count = len(values) or (usage if len(choices) == 1 else 0)
        if choice.finish_reason not in ENDED:
            raise RequestError(f"finish_{choice.finish_reason}"[:40], transient=True)
        if choice.finish_reason == "length" and 0 < count < options["max_tokens"]:
            raise RequestError("cut")
        mean = sum(values) / len(values) if values else None
        candidates.append({"text": choice.message.content.removesuffix(eos_token), "logprob": mean})
        tokens += count
    return {"candidates": candidates[:num_candidates], "tokens": usage or tokens}


def fixed_rows(count: int) -> list[int]:
    """The numbers of the rows by which a served model is recognised: spread over the data."""
    return sorted({index * count // FIXED_ROWS for index in range(FIXED_ROWS)}) if count else []


def first_tokens(
    model: nn.Module, tokenizer: Any, dataset: Any, collate: Callable[..., Any]
) -> tuple[list[dict[str, float]], str]:
    """What :meth:`.served_model.ServedModel.first_token` must find for the fixed rows, and the key of its limit."""
    found = []
    with preserve_training_state(model), torch.no_grad():
        for index in fixed_rows(len(dataset)):
            inputs = model_inputs(model, collate([dict(dataset[index])]), next(model.parameters()).device)
            logprobs, ids = model(**inputs).logits[0, -1].float().log_softmax(-1).topk(100)
            row: dict[str, float] = {}
            for token, value in zip(ids.tolist(), logprobs.tolist(), strict=True):
                row.setdefault(tokenizer.decode([token]), value)
                row[f"token_id:{token}"] = value
            found.append(row)
    precise = next(base_model(model).parameters()).dtype == torch.float32
    return found, "float32" if precise else "16 bits"


def _reference(
    found: list[dict[str, float]],
    out_path: Path,
    expected: tuple[list[dict[str, float]], str] | None,
    process_index: int,
) -> tuple[list[dict[str, float]], str]:
    """The first tokens that the server must show; raises ServerError if those that it shows now are others."""
    if expected is not None:
        require_same(found, *expected)
        return expected
    path = Path(f"{out_path}.server.json")
    if path.exists():
        require_same(found, read_json(path), "earlier answers")
        return read_json(path), "earlier answers"
    if process_index == 0:
        write_json(path, found)
    return found, "earlier answers"


def _row(id_: str, found: Row | Exception) -> Row:
    if not isinstance(found, Exception):
        return {"id": id_, **found}
    reason = found.code if isinstance(found, RequestError) else f"{type(found).__name__}: {found}"[:500]
    logger.warning("Row %s has no answer and is set aside: %s", id_, reason)
    return {"id": id_, "candidates": [], "tokens": 0, "error": f"the server's answer: {reason}"}


def _row_seed(seed: int, id_: str) -> int:
    return int(content_hash([seed, id_])[:7], 16)
