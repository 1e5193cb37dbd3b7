# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A teacher behind a vLLM server: its likeliest next ids at the supervised positions of rows and of rollouts.

- **Tokens** are the student's own ids, compared with the server's (:mod:`.served_scores`).
- **Identity.** Rows whose scores are known are scored again: at the start, before a group of scores is kept, and after
  each round of rollouts. Another model gives other log-probabilities.
- **Cache.** All rows are scored before the first step. A row's scores are found by its content, as hidden states are
  (:mod:`.teacher_cache`), so a run that was killed continues with the rows that are missing.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch

from ..generation.served_model import LIMITS, ServerError, difference
from ..training.lm_head import IGNORE_INDEX
from .cache_keys import sample_key
from .partition import TopLogprobs
from .served_scores import Scorer, ServedRow
from .teacher_cache import HiddenCache


FIXED_ROWS = 4  # scored again
COMPARED = 5  # likeliest ids of a position in that comparison
GROUP = 32  # rows between two comparisons
FLUSH_SECONDS = 30.0  # of work that a kill may lose
MAX_FAILED_FIRST = 4  # rows, each of which is tried several times


class KeyedRows(Mapping[str, ServedRow]):
    """The rows of tokenised data sets by :func:`.cache_keys.sample_key`; equal rows are one."""

    def __init__(self, datasets: Sequence[Any], pixel_settings: dict[str, Any]) -> None:
        self._places = {
            sample_key(row, pixel_settings): (dataset, number)
            for dataset in datasets
            for number, row in enumerate(dataset)
        }

    def __getitem__(self, key: str) -> ServedRow:
        dataset, number = self._places[key]
        row = dataset[number]
        if row.get("videos") or row.get("audios"):
            raise ValueError("Videos and audio are not sent to a server: `kd_teacher_base_url` takes images and text.")
        return ServedRow(list(row["input_ids"]), list(row["labels"]), row.get("images") or [])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class ServedTeacher:
    """Scores rows by a server, into a cache, and hands them to the loss.

    Args:
        scorer: Scores one row.
        cache: Of int32 ``[n, 2 * top_k]``, see :meth:`.served_scores.Scorer.score`.
        rows: The rows of the run by key.
    """

    def __init__(self, scorer: Scorer, cache: HiddenCache, rows: Mapping[str, ServedRow]) -> None:
        self.cache, self._rows, self._scorer = cache, rows, scorer
        self._served, self._top_k = scorer.served, scorer.top_k
        self._fixed: dict[str, torch.Tensor] = {}
        self._checks = 0

    def score_rows(
        self,
        keys: Sequence[str],
        *,
        stop_if_requested: Callable[[], None] = lambda: None,
        show: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Scores what the cache lacks of ``keys``, in groups that are kept after a comparison.

        Raises:
            ServerError: If the server is gone, has another model or failed on rows; what is kept is valid.
            TokenMismatchError: If the server reads a row otherwise.
        """
        missing = [key for key in keys if key not in self.cache]
        found: dict[str, torch.Tensor] = {}
        failed: dict[str, str] = {}
        kept, flushed = 0, time.monotonic()
        if not self._fixed:
            self._score_first(missing, found, failed)
        try:
            for group in self._stream([key for key in missing if key not in found | failed], self._rows):
                codes = {key: result for key, result in group if isinstance(result, str)}
                failed |= codes
                found |= {key: result for key, result in group if key not in codes}
                if len(found) >= GROUP or codes:
                    kept += self._keep(found)
                    if time.monotonic() - flushed >= FLUSH_SECONDS:
                        self.cache.flush()
                        flushed = time.monotonic()
                show(kept + len(found) + len(failed), len(missing))
                stop_if_requested()
            if found:
                self._keep(found)
        finally:
            self.cache.flush()
        if failed:
            raise ServerError(
                f"{len(failed)} of {len(missing)} rows have no scores: {_codes(failed)} The others are kept, and the "
                "same command continues with these."
            )

    def compare(self) -> None:
        """Raises ServerError if the server does not have the model whose scores are in the cache."""
        known = [key for key in self._rows if key in self.cache]
        chosen = [known[number * len(known) // FIXED_ROWS] for number in range(FIXED_ROWS)] if known else []
        self._fixed = {key: self.cache.get(key) for key in chosen}
        for key in self._fixed:
            self._compare(key)

    def score(self, rows: Sequence[tuple[str, list[int], list[int]]]) -> list[torch.Tensor]:
        """Scores rollouts: each has the key of its row, ids and labels.

        Raises:
            ServerError: If one fails; the same command continues from the last checkpoint.
            TokenMismatchError: If the server reads one otherwise.
        """
        rollouts = {
            number: ServedRow(ids, labels, self._rows[key].images) for number, (key, ids, labels) in enumerate(rows)
        }
        sent = [number for number, row in rollouts.items() if row.positions]
        nothing = torch.empty(0, 2 * self._top_k, dtype=torch.int32)
        scores: dict[int, Any] = dict.fromkeys(rollouts, nothing)
        for group in self._stream(sent, rollouts):
            scores |= dict(group)
        failed = {number: result for number, result in scores.items() if isinstance(result, str)}
        if failed:
            raise ServerError(
                f"{len(failed)} of {len(sent)} sampled answers have no scores: {_codes(failed)} The same command "
                "continues from the last checkpoint."
            )
        if sent:
            self._compare_next()
        return list(scores.values())

    def cached(self, keys: Sequence[str]) -> list[torch.Tensor]:
        """The scores of rows; raises KeyError for a row that is not of the run."""
        scores = [self.cache.get(key) for key in keys]
        if any(each is None for each in scores):
            raise KeyError("A row of this batch was not scored: its content changed since the run started.")
        return scores

    def top(self, scores: Sequence[torch.Tensor], targets: torch.Tensor) -> TopLogprobs:
        """``[B * K, k]`` from each row's scores, where ``targets`` ``[B, K]`` has a label; 0 elsewhere."""
        supervised = (targets != IGNORE_INDEX).cpu()
        packed = torch.zeros(*targets.shape, 2 * self._top_k, dtype=torch.int32)
        for row, states in enumerate(scores):
            expected = int(supervised[row].sum())
            if len(states) != expected:
                raise ValueError(f"A row has {len(states)} scores for {expected} supervised tokens.")
            packed[row, supervised[row]] = states.cpu()
        ids, logprobs = packed.flatten(0, 1).split(self._top_k, dim=1)
        logprobs = logprobs.contiguous().view(torch.float32)
        return TopLogprobs(ids.long().to(targets.device), logprobs.to(targets.device))

    def _stream(self, keys: Sequence[Any], rows: Mapping[Any, ServedRow]) -> Iterator[list[tuple[Any, Any]]]:
        """Groups of keys with their scores, or with the code of what failed; raises what must end the run."""
        if not keys:
            return

        async def work(client: Any, key: Any) -> tuple[Any, Any]:
            return key, await self._scorer.score(client, rows[key])

        with closing(self._served.server.stream(keys, work, min(self._served.concurrency, len(keys)))) as groups:
            for group in groups:
                for _, result in group:
                    if isinstance(result, Exception):
                        raise result
                yield group

    def _score_first(self, missing: Sequence[str], found: dict[str, torch.Tensor], failed: dict[str, str]) -> None:
        """Scores one row before all others, so that each of these can be compared with what the server had before."""
        for key in missing:
            result = self._score_one(key)
            if not isinstance(result, str):
                found[key] = self._fixed[key] = result
                return
            failed[key] = result
            self._served.find_model()  # is the server there at all?
            if len(failed) >= MAX_FAILED_FIRST:
                break
        if failed:
            raise ServerError(f"The first {len(failed)} rows all failed: {_codes(failed)}")

    def _keep(self, found: dict[str, torch.Tensor]) -> int:
        """Moves a group to the cache after a comparison; returns its size."""
        self._compare_next()
        count = len(found)
        for key, scores in found.items():
            self.cache.put(key, scores)
        found.clear()
        return count

    def _score_one(self, key: str) -> torch.Tensor | str:
        row = self._rows[key]

        async def work(client: Any, _: Any) -> Any:
            return await self._scorer.score(client, row)

        result = self._served.one(work)
        if isinstance(result, Exception):
            raise result
        return result

    def _compare_next(self) -> None:
        self._checks += 1
        self._compare(list(self._fixed)[self._checks % len(self._fixed)])

    def _compare(self, key: str) -> None:
        result = self._score_one(key)
        if isinstance(result, str):
            raise ServerError(
                f"{self._served.url} fails on a row that it scored before ({result}). What is on disk is valid; the "
                "same command continues."
            )
        worst = difference(_likeliest(result, self._top_k), _likeliest(self._fixed[key], self._top_k))
        if worst > LIMITS["earlier answers"]:
            raise ServerError(
                f"The server {self._served.url} has another model than the one that scored rows before: on a row that "
                f"is scored again, log-probabilities differ by {worst:.3g} on average, allowed are "
                f"{LIMITS['earlier answers']}. Serve the former model, or delete {self.cache.directory}."
            )


def _likeliest(scores: torch.Tensor, top_k: int) -> dict[str, float]:
    ids, logprobs = scores.split(top_k, dim=1)
    values = logprobs.contiguous().view(torch.float32)[:, :COMPARED].tolist()
    pairs = zip(ids[:, :COMPARED].tolist(), values, strict=True)
    return {f"{n} {token}": value for n, row in enumerate(pairs) for token, value in zip(*row, strict=True)}


def _codes(failed: Mapping[Any, str]) -> str:
    """The codes of failed rows with their counts, as a sentence."""
    codes = sorted(set(failed.values()))
    return ", ".join(f"{sum(code == each for each in failed.values())} with {code}" for code in codes) + "."
