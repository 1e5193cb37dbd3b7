# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Scores and ranks the candidates of generated rows, or of stored predictions.

What a candidate is scored by is in :mod:`.views` and :mod:`.words`. One that cannot be scored has a null score and the
reason under ``unscored``, and ranks after the others. Candidates with equal scores keep the order of generation.
"""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from ..utils.console import bars_of_parts, console
from ..utils.io import JsonlRows, append_jsonl, content_hash, placed_rows, write_json, write_lines_of
from ..utils.pixels import read_pixels
from ..utils.row_index import ComputedRows, HashIndex, chunks
from .consensus import WeightedScorer
from .fit import fit_weights, row_mark
from .image_scores import ImageCache, Row, RowScores, image_scores
from .scorers import Scorer
from .views import views_of


logger = logging.getLogger(__name__)

ADDED_KEYS = ("score", "rank", "unscored")


def rank_scores(scores: Sequence[float | None]) -> list[int]:
    """Ranks from 1 for the highest score; ties keep their order, None and NaN come last.

    >>> rank_scores([1.0, None, 3.0, 1.0])
    [2, 4, 1, 3]
    """
    known = [score is not None and not math.isnan(score) for score in scores]
    order = sorted(range(len(scores)), key=lambda i: (not known[i], -scores[i] if known[i] else 0.0, i))
    ranks = [0] * len(scores)
    for rank, i in enumerate(order, start=1):
        ranks[i] = rank
    return ranks


def select_rows(
    rows: Sequence[Row],
    scorer: Scorer,
    load_image: Callable[[Row], Image.Image],
    *,
    out_path: str | Path,
    region: str = "auto",
    batch_size: int = 32,
    resume: bool = True,
    progress: bool = False,
) -> Sequence[Row]:
    """Scores and ranks every row's candidates and writes the predictions (JSONL) to ``out_path``.

    Args:
        rows: ``{"id", "image", "question", "annotation", "task", "modality", "candidates": [{"text", "logprob"}]}``,
            candidates in the order of generation. Other keys are copied.
        scorer: From :func:`.scorers.load_scorer`.
        load_image: Opens a row's image.
        out_path: The predictions, written atomically at the end; ``<out_path>.<hash>.part`` grows until then.
            The scorer's identity and the region go to ``predictions.scorer.json`` beside it.
        region: Of an image-text scorer, see :mod:`.views`.
        batch_size: Rows per pass of the scorer.
        resume: Reuse the rows of an interrupted run with the same scorer and region.
        progress: Show a progress bar.

    Returns:
        The rows, read from the file when they are used, with ``response`` (the text of rank 1), ``scorer`` (its short
        name) and, in each candidate, ``score`` and ``rank``. If an image cannot be read, nothing was generated or the
        row is malformed, ``error`` holds the reason, the scores are null and the order of generation is kept. Without
        candidates ``response`` is unchanged.

    Raises:
        ValueError: If ``region`` is unknown, or the scorer's weights were fitted on some of the rows.
        RuntimeError: If there are candidates to rank, and no row could be ranked.
    """
    views_of(region)
    _check_unseen(rows, scorer)
    out_path = Path(out_path)
    partial_path = out_path.with_name(f"{out_path.name}.{content_hash([scorer.identity, region])[:12]}.part")
    if not resume:
        partial_path.unlink(missing_ok=True)
    places = HashIndex()  # of each row's line
    for offset, row in placed_rows(partial_path):
        if "error" not in row:
            places.put(_row_hash(row), offset)

    hashes = np.fromiter(map(_row_hash, rows), np.uint64, len(rows))
    count, images = len(places), ImageCache(load_image)
    todo = ((hash_, row) for hash_, row in zip(map(int, hashes), rows, strict=True) if hash_ not in places)
    errors, first, rankable = 0, "", False
    with bars_of_parts(console if progress else None) as show:
        for batch in chunks(todo, batch_size):
            selected = _select_batch([row for _, row in batch], scorer, images, region)
            for (hash_, _), offset in zip(batch, append_jsonl(partial_path, selected), strict=True):
                places.put(hash_, offset)
            for row in selected:
                first, errors = first or row.get("error", ""), errors + ("error" in row)
                rankable = rankable or (_problem(row) is None and len(row["candidates"]) > 1)
            show(f"score with {scorer.short_name}", count := count + len(batch), len(rows))

    if errors == len(rows) and rankable:
        raise RuntimeError(f"None of the {len(rows)} rows could be ranked; the first error: {first}")
    if errors:
        logger.warning("%d of %d rows have an error and could not be ranked: see `error`.", errors, len(rows))
    write_json(out_path.with_suffix(".scorer.json"), {"identity": scorer.identity, "region": region})
    sources = [partial_path] if partial_path.exists() else []
    write_lines_of(out_path, sources, ((0, places.get(hash_)) for hash_ in map(int, hashes)))
    for old in out_path.parent.glob(f"{out_path.name}.*.part"):
        old.unlink()
    return JsonlRows(out_path)


def select_row(row: Row, scorer: Scorer, image: Image.Image | None, *, region: str = "auto") -> Row:
    """As :func:`select_rows`, for one row in memory; ``row["image"]`` is any name, or absent without an image."""
    return _select_batch([row], scorer, ImageCache(lambda _: image), region)[0]


def rerank(
    predictions_path: str | Path,
    scorer: Scorer,
    out_path: str | Path,
    image_dir: str | Path,
    *,
    region: str = "auto",
    batch_size: int = 32,
    progress: bool = False,
) -> Sequence[Row]:
    """Ranks stored candidates with another scorer, without generating again; arguments as :func:`select_rows`.

    Raises:
        FileNotFoundError: If there is no file at ``predictions_path``.
        ValueError: If no row has stored candidates, or a line is no JSON object.
    """
    rows = _read_candidates(predictions_path)
    return select_rows(
        ComputedRows(lambda row: {key: value for key, value in row.items() if key != "error"}, rows),
        scorer,
        lambda row: read_pixels(Path(image_dir) / row["image"]),
        out_path=out_path,
        region=region,
        batch_size=batch_size,
        progress=progress,
    )


def fit_scorers(
    predictions_path: Path, scorers: dict[str, Scorer], out_path: Path, image_dir: Path, *, region: str = "auto"
) -> dict[str, dict[str, float]]:
    """Fits the weights of several scorers on the stored candidates of a validation part, see :mod:`.fit`.

    ``sasg_scorer`` may name the file that it writes.

    Returns:
        Task -> figures: rows, quality of the first candidate, of the best one, of each scorer's choice, of the sum's.

    Raises:
        ValueError: If there are no rows to fit on, or a weighted scorer is among the scorers.
    """
    if any(isinstance(scorer, WeightedScorer) for scorer in scorers.values()):
        raise ValueError("A file of weights cannot be weighted again. Name its scorers.")
    rows = [row for row in _read_candidates(predictions_path) if _problem(row) is None and "error" not in row]
    images = ImageCache(lambda row: read_pixels(Path(image_dir) / row["image"]))
    scores: dict[str, list[RowScores]] = {}
    for name, scorer in scorers.items():
        batches = track(range(0, len(rows), 32), description=f"Score with {scorer.short_name}")
        scores[name] = [each for i in batches for each in score_rows(rows[i : i + 32], scorer, images, region)]
    fitted = fit_weights(rows, scores)
    write_json(out_path, {"scorers": dict.fromkeys(scorers, region), **fitted})
    return fitted["quality"]


def _check_unseen(rows: Sequence[Row], scorer: Scorer) -> None:
    """Raises ValueError if a weighted scorer was fitted on any of the rows."""
    seen = sum(row_mark(row) in scorer.fitted_on for row in rows) if isinstance(scorer, WeightedScorer) else 0
    if seen:
        raise ValueError(
            f"The scorer's weights were fitted on {seen} of these {len(rows)} rows, so that their scores would be too "
            "good. Rank other rows, or fit the weights on a validation part."
        )


def _read_candidates(predictions_path: str | Path) -> Sequence[Row]:
    """The rows of stored predictions."""
    if not Path(predictions_path).is_file():
        raise FileNotFoundError(f"There is no predictions file at {predictions_path}.")
    rows = JsonlRows(predictions_path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{predictions_path}, row {number}: not an object but {type(row).__name__}. Remove it.")
    if not any(row.get("candidates") for row in rows):
        raise ValueError(
            f"{predictions_path} stores no candidates to rank. Predict with `sasg_candidates` of 2 or more first."
        )
    return rows


def _row_hash(row: Row) -> int:
    """64 bits of a row as it was before selection; a response that selection does not replace is part of it.

    Among 10 million rows two have the same hash with a probability of 3 in a million.
    """
    row = {key: value for key, value in row.items() if key not in ("scorer", "error")}
    if _problem(row) is None:
        row.pop("response", None)
        row["candidates"] = [{k: v for k, v in c.items() if k not in ADDED_KEYS} for c in row["candidates"]]
    return int(content_hash(row)[:16], 16)


def _problem(row: Row) -> str | None:
    """Why a row has nothing to rank, or None."""
    candidates = row.get("candidates", [])
    if not isinstance(candidates, list) or not all(
        isinstance(candidate, dict) and isinstance(candidate.get("text"), str) for candidate in candidates
    ):
        return "`candidates` is not a list of objects with a `text`."
    return None if candidates else "There are no candidates."


def _select_batch(batch: Sequence[Row], scorer: Scorer, images: ImageCache, region: str) -> list[Row]:
    """Scores one batch in one pass of the scorer and selects the responses."""
    errors = [row.get("error") or _problem(row) for row in batch]
    valid = [row for row, error in zip(batch, errors, strict=True) if error is None]
    results = iter(score_rows(valid, scorer, images, region))
    return [
        _select(row, None, error, scorer) if error is not None else _select(row, next(results), None, scorer)
        for row, error in zip(batch, errors, strict=True)
    ]


def score_rows(rows: Sequence[Row], scorer: Scorer, images: ImageCache, region: str) -> list[RowScores]:
    """The scores of valid rows with any scorer."""
    if isinstance(scorer, WeightedScorer):
        parts = {
            name: score_rows(rows, part, images, scorer.regions.get(name, region))
            for name, part in scorer.parts.items()
        }
        return [
            scorer.combine(row, {name: scores[index] for name, scores in parts.items()})
            for index, row in enumerate(rows)
        ]
    return image_scores(rows, scorer, images, region) if scorer.reads_images else scorer.score_rows(rows)


def _select(row: Row, found: RowScores | None, error: str | None, scorer: Scorer) -> Row:
    """The row with scores, ranks and the selected response; without scores in the order of generation."""
    selected = {**row, "response": row.get("response") or "", "scorer": scorer.short_name}
    error = error or (found.error if found is not None else None)
    if error is not None:
        selected["error"] = error
    if _problem(row) is None:
        scores, reasons, _ = found or RowScores(*[[None] * len(row["candidates"])] * 2)
        ranks = rank_scores(scores)
        selected["candidates"] = [
            {**candidate, "score": score, "rank": rank} | ({} if reason is None else {"unscored": reason})
            for candidate, score, rank, reason in zip(row["candidates"], scores, ranks, reasons, strict=True)
        ]
        selected["response"] = row["candidates"][ranks.index(1)]["text"]
    return selected
