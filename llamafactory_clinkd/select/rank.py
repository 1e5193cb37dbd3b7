# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Scores and ranks the candidates of generated rows, or of stored predictions.

A candidate is scored without boxes and tags; if no words are left, its score is null and it ranks after the others.
Candidates with equal scores keep the order in which they were generated.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from rich.progress import track

from ..utils.boxes import Box, parse_boxes, strip_boxes
from ..utils.io import append_jsonl, content_hash, read_jsonl, write_json, write_jsonl
from ..utils.pixels import read_pixels, rgb_pixels
from .scorers import Scorer


logger = logging.getLogger(__name__)

Row = dict[str, Any]
Region = Literal["image", "crop"]


def rank_scores(scores: Sequence[float | None]) -> list[int]:
    """Ranks from 1 for the highest score; ties keep their order, None comes last.

    >>> rank_scores([1.0, None, 3.0, 1.0])
    [2, 4, 1, 3]
    """
    order = sorted(range(len(scores)), key=lambda i: (scores[i] is None, -(scores[i] or 0.0), i))
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
    region: Region = "image",
    batch_size: int = 32,
    resume: bool = True,
    progress: bool = False,
) -> list[Row]:
    """Scores and ranks every row's candidates and writes the predictions (JSONL) to ``out_path``.

    Args:
        rows: ``{"id", "image", "question", "annotation", "task", "modality", "candidates": [{"text", "logprob"}]}``,
            candidates in the order of generation. Other keys are copied.
        scorer: From :func:`.scorers.load_scorer`.
        load_image: Opens a row's image.
        out_path: The predictions, written atomically at the end; ``<out_path>.<hash>.part`` grows until then.
            The scorer's identity and the region go to ``predictions.scorer.json`` beside it.
        region: ``image`` scores the whole image, ``crop`` the first box of the candidate, else of the question, else
            the whole image.
        batch_size: Rows per pass of the scorer.
        resume: Reuse the rows of an interrupted run with the same scorer and region.
        progress: Show a progress bar.

    Returns:
        The rows with ``response`` (the text of rank 1), ``scorer`` (its short name) and, in each candidate, ``score``
        and ``rank``. If an image cannot be read, nothing was generated or the row is malformed, ``error`` holds the
        reason, the scores are null and the order of generation is kept. Without candidates ``response`` is unchanged.

    Raises:
        ValueError: If ``region`` is unknown.
        RuntimeError: If there are candidates to rank, and no row could be ranked.
    """
    if region not in ("image", "crop"):
        raise ValueError(f"Unknown region {region!r}: expected 'image' or 'crop'.")
    out_path = Path(out_path)
    partial_path = out_path.with_name(f"{out_path.name}.{content_hash([scorer.identity, region])[:12]}.part")
    if not resume:
        partial_path.unlink(missing_ok=True)
    done = {_row_key(row): row for row in read_jsonl(partial_path) if "error" not in row}

    todo = [row for row in rows if _row_key(row) not in done]
    batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
    for batch in track(batches, description=f"Score with {scorer.short_name}", disable=not progress):
        selected = _select_batch(batch, scorer, load_image, region)
        append_jsonl(partial_path, selected)
        done |= {_row_key(row): after for row, after in zip(batch, selected, strict=True)}

    result = [done[_row_key(row)] for row in rows]
    errors = [row["error"] for row in result if "error" in row]
    if len(errors) == len(result) and any(_problem(row) is None and len(row["candidates"]) > 1 for row in result):
        raise RuntimeError(f"None of the {len(result)} rows could be ranked; the first error: {errors[0]}")
    if errors:
        logger.warning("%d of %d rows have an error and could not be ranked: see `error`.", len(errors), len(rows))
    write_json(out_path.with_suffix(".scorer.json"), {"identity": scorer.identity, "region": region})
    write_jsonl(out_path, result)
    for old in out_path.parent.glob(f"{out_path.name}.*.part"):
        old.unlink()
    return result


def select_row(row: Row, scorer: Scorer, image: Image.Image | None, *, region: Region = "image") -> Row:
    """As :func:`select_rows`, for one row in memory; ``row["image"]`` is any name, or absent without an image."""
    return _select_batch([row], scorer, lambda _: image, region)[0]


def rerank(
    predictions_path: str | Path,
    scorer: Scorer,
    out_path: str | Path,
    image_dir: str | Path,
    *,
    region: Region = "image",
    batch_size: int = 32,
    progress: bool = False,
) -> list[Row]:
    """Ranks stored candidates with another scorer, without generating again; arguments as :func:`select_rows`.

    Raises:
        FileNotFoundError: If there is no file at ``predictions_path``.
        ValueError: If no row has stored candidates, or a line is no JSON object.
    """
    if not Path(predictions_path).is_file():
        raise FileNotFoundError(f"There is no predictions file at {predictions_path}.")
    rows = read_jsonl(predictions_path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{predictions_path}, row {number}: not an object but {type(row).__name__}. Remove it.")
    if not any(row.get("candidates") for row in rows):
        raise ValueError(
            f"{predictions_path} stores no candidates to rank. Predict with `sasg_candidates` of 2 or more first."
        )
    return select_rows(
        [{key: value for key, value in row.items() if key != "error"} for row in rows],
        scorer,
        lambda row: read_pixels(Path(image_dir) / row["image"]),
        out_path=out_path,
        region=region,
        batch_size=batch_size,
        progress=progress,
    )


def _row_key(row: Row) -> str:
    """Hash of a row as it was before selection; a response that selection does not replace is part of it."""
    row = {key: value for key, value in row.items() if key not in ("scorer", "error")}
    if _problem(row) is None:
        row.pop("response", None)
        row["candidates"] = [{k: v for k, v in c.items() if k not in ("score", "rank")} for c in row["candidates"]]
    return content_hash(row)


def _problem(row: Row) -> str | None:
    """Why a row has nothing to rank, or None."""
    candidates = row.get("candidates", [])
    if not isinstance(candidates, list) or not all(
        isinstance(candidate, dict) and isinstance(candidate.get("text"), str) for candidate in candidates
    ):
        return "`candidates` is not a list of objects with a `text`."
    return None if candidates else "There are no candidates."


def _select_batch(
    batch: Sequence[Row], scorer: Scorer, load_image: Callable[[Row], Image.Image], region: Region
) -> list[Row]:
    """Scores one batch in one pass of the scorer and selects the responses."""
    errors = [row.get("error") or _problem(row) for row in batch]
    valid = [row for row, error in zip(batch, errors, strict=True) if error is None]
    results = iter(_score_images(valid, scorer, load_image, region) if scorer.reads_images else _score_logprobs(valid))
    return [
        _select(row, None, error, scorer) if error is not None else _select(row, *next(results), scorer)
        for row, error in zip(batch, errors, strict=True)
    ]


def _score_logprobs(rows: list[Row]) -> list[tuple[list[float] | None, str | None]]:
    """Each row's stored log-probabilities, or the error."""
    table = [[candidate.get("logprob") for candidate in row["candidates"]] for row in rows]
    missing = "A candidate has no stored `logprob` to be ranked by: choose another scorer, or generate again."
    return [(None, missing) if None in scores else (scores, None) for scores in table]


def _score_images(rows, scorer, load_image, region) -> list[tuple[list[float | None] | None, str | None]]:
    """Each row's scores, or the error. Each view (image name, box or None) and its distinct words are scored once."""
    images, pictures, words_of_view, results = {}, {}, {}, []
    for row in rows:
        name, keys = row.get("image"), []
        if not name:
            results.append((None, "The row has no image to compare with; the scorer `logprob` needs none."))
            continue
        try:
            if name not in images:
                images[name] = rgb_pixels(load_image(row))
        except Exception as problem:  # a missing, broken or forbidden image must not lose the other rows
            results.append((None, f"The image cannot be read ({type(problem).__name__}: {problem})."))
            continue
        question_boxes = parse_boxes(str(row.get("question") or ""))
        for candidate in row["candidates"]:
            words = strip_boxes(candidate["text"])
            boxes = (parse_boxes(candidate["text"]) or question_boxes) if region == "crop" else []
            crop = crop_box(images[name], boxes[0]) if boxes else None
            view = (name, None if crop is None else boxes[0])
            keys.append((view, words))
            if words:
                pictures.setdefault(view, images[name] if crop is None else crop)
                words_of_view.setdefault(view, {})[words] = None
        results.append((keys, None))

    texts = [list(words) for words in words_of_view.values()]
    table = scorer.score(list(pictures.values()), texts) if pictures else []
    scores = {
        (view, text): score
        for view, view_texts, view_scores in zip(pictures, texts, table, strict=True)
        for text, score in zip(view_texts, view_scores, strict=True)
    }
    return [(keys and [scores.get(key) for key in keys], error) for keys, error in results]


def crop_box(image: Image.Image, box: Box) -> Image.Image | None:
    """The part of ``image`` inside ``box`` (thousandths), at least one pixel; None if the box lies outside."""
    left, right = (min(max(x / 1000, 0.0), 1.0) * image.width for x in (box.x1, box.x2))
    top, bottom = (min(max(y / 1000, 0.0), 1.0) * image.height for y in (box.y1, box.y2))
    if right <= left or bottom <= top:
        return None
    return image.crop((int(left), int(top), max(round(right), int(left) + 1), max(round(bottom), int(top) + 1)))


def _select(row: Row, scores: Sequence[float | None] | None, error: str | None, scorer: Scorer) -> Row:
    """The row with scores, ranks and the selected response; without scores in the order of generation."""
    selected = {**row, "response": row.get("response") or "", "scorer": scorer.short_name}
    if error is not None:
        selected["error"] = error
    if _problem(row) is None:
        scores = scores if scores is not None else [None] * len(row["candidates"])
        ranks = rank_scores(scores)
        selected["candidates"] = [
            {**candidate, "score": score, "rank": rank}
            for candidate, score, rank in zip(row["candidates"], scores, ranks, strict=True)
        ]
        selected["response"] = row["candidates"][ranks.index(1)]["text"]
    return selected
