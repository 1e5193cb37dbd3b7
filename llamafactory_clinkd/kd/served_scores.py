# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Requests for a served teacher's scores: the likeliest next ids of one row, and what the server must be like.

The server gets the student's own ids, with one placeholder for each image, and the images as PNG files with the
student's pixels (``/inference/v1/generate``, which vLLM's ``--enable-scale-out`` adds). No chat template is between
them: the end of an answer is scored like any token, and a rollout as it was sampled, not as its text is tokenised. The
server returns its ids, with its own number for each image; they must be the student's.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from ..generation.served_model import ServedModel, ServerError
from ..training.lm_head import IGNORE_INDEX
from ..utils.chat_client import RequestError


GENERATE = "/inference/v1/generate"


class TokenMismatchError(ValueError):
    """The server reads other tokens than the student."""


class ServedRow(NamedTuple):
    """What the server gets of a row or rollout, without padding."""

    ids: list[int]
    labels: list[int]
    images: list[Any]

    @property
    def positions(self) -> list[int]:
        """The positions of the predicted ids."""
        return [i for i, label in enumerate(self.labels) if i and label != IGNORE_INDEX]


class Scorer:
    """Scores single rows.

    Args:
        served: The server.
        top_k: Ids a position.
        data_urls: A row's images -> data URLs.
        image_id: The id that stands for a part of an image; None for a text model.
    """

    def __init__(
        self, served: ServedModel, top_k: int, data_urls: Callable[[list[Any]], list[str]], image_id: int | None
    ) -> None:
        self.served, self.top_k = served, top_k
        self._data_urls, self._image_id = data_urls, image_id

    async def score(self, client: Any, row: ServedRow) -> torch.Tensor | str | Exception:
        """int32 ``[n, 2 * top_k]``: ids, likeliest first, and the bits of their fp32 log-probabilities.

        Returns the code of a failed request, and the error of a row that the server reads otherwise or whose image
        cannot be read: an exception would leave the event loop inside a group.
        """
        sampling = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": self.top_k, "detokenize": False}
        read = partial(read_scores, row=row, top_k=self.top_k, image_id=self._image_id)
        try:
            body: dict[str, Any] = {"token_ids": self._placeholders(row.ids), "sampling_params": sampling}
            if row.images:
                body["content_parts"] = [{"type": "image_url", "url": url} for url in self._data_urls(row.images)]
            return await self.served.post(client, GENERATE, read, return_token_ids=True, **body)
        except RequestError as error:
            return error.code
        except (ValueError, OSError) as error:
            return error

    def _placeholders(self, ids: list[int]) -> list[int]:
        """The ids with one placeholder for each image, which the server's processor expands."""
        return [i for n, i in enumerate(ids) if not (n and i == ids[n - 1] == self._image_id)]


def read_scores(reply: Any, row: ServedRow, top_k: int, image_id: int | None) -> torch.Tensor:
    """int32 ``[n, 2 * top_k]`` of a response.

    Raises:
        TokenMismatchError: If its ids are not the row's.
        RequestError: ``cut`` without a position, ``wrong_count`` without ``top_k`` ids, ``bad_logprobs``.
    """
    require_same_ids(reply["prompt_token_ids"], row.ids, image_id)
    entries = reply["prompt_logprobs"]
    if len(entries) != len(row.ids):
        raise RequestError("cut")
    ids, logprobs = [], []
    for position in row.positions:
        pairs = sorted((-entry["logprob"], int(token)) for token, entry in entries[position].items())[:top_k]
        if len(pairs) < top_k:
            raise RequestError("wrong_count")
        ids.append([token for _, token in pairs])
        logprobs.append([-value for value, _ in pairs])
        # NaN, or the logits of `--logprobs-mode raw_logits`
        if not sum(math.exp(min(each, 1.0)) for each in logprobs[-1]) < 1.001:
            raise RequestError("bad_logprobs")
    scores = torch.tensor(logprobs, dtype=torch.float32).view(-1, top_k)
    return torch.cat([torch.tensor(ids, dtype=torch.int32).view(-1, top_k), scores.view(torch.int32)], dim=1)


def require_same_ids(found: Sequence[int], ids: Sequence[int], image_id: int | None) -> None:
    """Raises TokenMismatchError if the server's ids, with its number for each image, are not the student's."""
    if list(found) == list(ids):
        return
    ours, theirs = (sum(i == image_id for i in each) for each in (ids, found))
    shorter = min(len(ids), len(found))
    first = next((n for n, (a, b) in enumerate(zip(ids, found, strict=False)) if a != b), shorter)
    raise TokenMismatchError(
        f"The server reads a row otherwise: it has {len(ids)} tokens here, {ours} of them for images, and "
        f"{len(found)} there, {theirs} for images; the first difference is at token {first}. Teacher and "
        "student need the same processor: serve the teacher with the student's pixel limits (`--mm-processor-kwargs`)."
    )


def check_server(served: ServedModel, tokenizer: Any, top_k: int) -> None:
    """Checks the model's name, the server's flags and its whole vocabulary, before anything is trained.

    Raises:
        ServerError: If it does not answer, or a flag is missing.
        TokenMismatchError: If an id is another token there.
    """
    served.find_model()

    async def probe(client: Any, _: Any) -> str:
        sampling = {"max_tokens": 1, "prompt_logprobs": top_k}
        try:
            options = {"token_ids": [0, 0], "sampling_params": sampling}
            await served.post(client, GENERATE, lambda reply: reply["choices"], **options)
        except RequestError as error:
            if error.code not in ("http_400", "http_403", "http_404"):
                raise
            return error.code
        return ""

    code = served.one(probe)
    if code == "http_400":
        raise ServerError(
            f"{served.url} refuses {top_k} log-probabilities for a position. Start vLLM with `--max-logprobs "
            f"{top_k}`, or lower `kd_teacher_top_k`."
        )
    if code:
        raise ServerError(f"{served.url} has no {GENERATE}. Start vLLM (0.32 or later) with `--enable-scale-out`.")

    def same(low: int, high: int) -> bool:
        async def decode(client: Any, _: Any) -> str:
            ids = list(range(low, high))
            return await served.post(client, "/detokenize", lambda reply: reply["prompt"], tokens=ids)

        return served.one(decode) == tokenizer.decode(list(range(low, high)), skip_special_tokens=False)

    low, high = 0, len(tokenizer)
    if same(low, high):
        return
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if same(low, middle) else (low, middle)
    raise TokenMismatchError(
        f"Teacher and student do not read the same tokens: id {low} is {tokenizer.decode([low])!r} here and another "
        f"token at {served.url}. Distillation compares them id by id: serve a teacher with the student's tokenizer."
    )
