# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Ranks candidates: generation rows become predictions, stored predictions are ranked anew.

A candidate's boxes and tags are taken out before it is scored. Candidates with equal scores keep the order in which
they were generated. One that has no words apart from boxes cannot be compared with an image: its score is null and it
ranks after the others.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from rich.progress import track

from ..utils.boxes import Box, parse_boxes, strip_boxes
from ..utils.io import append_jsonl, content_hash, read_jsonl, write_json, write_jsonl
from .scorers import Scorer


Region = Literal["image", "crop"]

View = tuple[str, Box | None]  # an image, or one box of it

Place = tuple[View, str]  # a view and the words that are compared with it


def crop_box(image: Image.Image, box: Box) -> Image.Image | None:
    """The part of ``image`` inside ``box`` (thousandths), at least one pixel; None if nothing of it is inside."""
    left, right = (min(max(x / 1000, 0.0), 1.0) * image.width for x in (box.x1, box.x2))
    top, bottom = (min(max(y / 1000, 0.0), 1.0) * image.height for y in (box.y1, box.y2))
    if right <= left or bottom <= top:
        return None
    return image.crop((int(left), int(top), max(round(right), int(left) + 1), max(round(bottom), int(top) + 1)))


class Views:
    """Collects views and words so that each view is encoded once, and equal words on a view are scored once."""

    def __init__(self) -> None:
        self._pictures: dict[View, Image.Image] = {}
        self._words: dict[View, dict[str, None]] = {}

    def add(self, name: str, image: Image.Image, text: str, region: Region) -> Place | None:
        """Notes a candidate of the image called ``name``; None if it has no words apart from boxes."""
        words = strip_boxes(text)
        if not words:
            return None
        boxes = parse_boxes(text) if region == "crop" else []
        crop = crop_box(image, boxes[0]) if boxes else None
        view, picture = ((name, boxes[0]), crop) if crop is not None else ((name, None), image)
        self._pictures.setdefault(view, picture)
        self._words.setdefault(view, {})[words] = None
        return view, words

    def score(self, scorer: Scorer) -> dict[Place, float]:
        """Scores everything in one pass of the scorer."""
        if not self._pictures:
            return {}
        table = scorer.score(list(self._pictures.values()), [list(words) for words in self._words.values()])
        return {
            (view, words): score
            for (view, texts), scores in zip(self._words.items(), table, strict=True)
            for words, score in zip(texts, scores, strict=True)
        }


logger = logging.getLogger(__name__)

Row = dict[str, Any]


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
            candidates in the order of generation. Other keys are kept.
        scorer: From :func:`.scorers.load_scorer`.
        load_image: Opens a row's image.
        out_path: Where the predictions go, atomically at the end; ``<out_path>.<settings>.part`` grows until then.
            The scorer's whole identity and the region go beside it, see :func:`scorer_path`.
        region: ``image`` scores the whole image, ``crop`` each candidate's own first box (the image without one).
        batch_size: Rows per pass of the scorer.
        resume: Take rows that an interrupted run of the same scorer and region left.
        progress: Show a progress bar.

    Returns:
        The rows with ``response`` (the text of rank 1), ``scorer`` (its short name) and, in each candidate, ``score``
        and ``rank``. Where an image cannot be read, nothing was generated or the row is malformed, ``error`` says so,
        the scores are null and the order of generation stands; without candidates a stored ``response`` does.

    Raises:
        ValueError: If ``region`` is unknown.
        RuntimeError: If there was something to rank, and not one row could be.
    """
    if region not in ("image", "crop"):
        raise ValueError(f"Unknown region {region!r}: expected 'image' or 'crop'.")
    out_path = Path(out_path)
    part = out_path.with_name(f"{out_path.name}.{content_hash([scorer.identity, region])[:12]}.part")
    if not resume:
        part.unlink(missing_ok=True)
    done = {_key(row): row for row in read_jsonl(part) if "error" not in row}

    todo = [row for row in rows if _key(row) not in done]
    batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
    for batch in track(batches, description=f"Score with {scorer.short_name}", disable=not progress):
        selected = _select_batch(batch, scorer, load_image, region)
        append_jsonl(part, selected)
        done |= {_key(row): after for row, after in zip(batch, selected, strict=True)}

    result = [done[_key(row)] for row in rows]
    errors = [row["error"] for row in result if "error" in row]
    if len(errors) == len(result) and any(_problem(row) is None and len(row["candidates"]) > 1 for row in result):
        raise RuntimeError(f"None of the {len(result)} rows could be ranked; the first says: {errors[0]}")
    if errors:
        logger.warning(
            "%d of %d rows have an error and could not be ranked: see their `error`.", len(errors), len(rows)
        )
    write_json(scorer_path(out_path), {"identity": scorer.identity, "region": region})
    write_jsonl(out_path, result)
    for old in out_path.parent.glob(f"{out_path.name}.*.part"):
        old.unlink()
    return result


def scorer_path(out_path: str | Path) -> Path:
    """Where the record of what ranked the predictions lies: ``predictions.scorer.json`` beside them."""
    return Path(out_path).with_suffix(".scorer.json")


def select_row(row: Row, scorer: Scorer, image: Image.Image | None, *, region: Region = "image") -> Row:
    """Scores and ranks the candidates of one row in memory: nothing is written.

    Args:
        row: As in :func:`select_rows`; ``image`` is any name, or absent where there is none.
        scorer: From :func:`.scorers.load_scorer`.
        image: The row's image.
        region: As in :func:`select_rows`.

    Returns:
        The row as :func:`select_rows` returns it.
    """
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
        FileNotFoundError: If there are no predictions at ``predictions_path``.
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
    rows = [{key: value for key, value in row.items() if key != "error"} for row in rows]

    def load_image(row: Row) -> Image.Image:
        return Image.open(Path(image_dir) / row["image"])

    return select_rows(
        rows, scorer, load_image, out_path=out_path, region=region, batch_size=batch_size, progress=progress
    )


def _key(row: Row) -> str:
    """Tells two rows apart by all that was there before selection; a response that nothing replaces is part of it."""
    row = {key: value for key, value in row.items() if key not in ("scorer", "error")}
    if _problem(row) is None:
        row.pop("response", None)
        row["candidates"] = [{k: v for k, v in c.items() if k not in ("score", "rank")} for c in row["candidates"]]
    return content_hash(row)


def _problem(row: Row) -> str | None:
    """Why a row has nothing to rank."""
    candidates = row.get("candidates", [])
    if not isinstance(candidates, list) or not all(isinstance(c, dict) and _is_text(c) for c in candidates):
        return "`candidates` is not a list of objects with a `text`."
    return None if candidates else "There are no candidates."


def _is_text(candidate: dict[str, Any]) -> bool:
    return isinstance(candidate.get("text"), str)


def _select_batch(
    batch: Sequence[Row], scorer: Scorer, load_image: Callable[[Row], Image.Image], region: Region
) -> list[Row]:
    """Scores one batch in one pass and chooses."""
    score = _score_with_images if scorer.reads_images else _score_by_logprob
    errors = [row.get("error") or _problem(row) for row in batch]
    good = [row for row, error in zip(batch, errors, strict=True) if error is None]
    results = iter(score(good, scorer, load_image, region))
    return [
        _choose(row, None, error, scorer) if error is not None else _choose(row, *next(results), scorer)
        for row, error in zip(batch, errors, strict=True)
    ]


def _score_by_logprob(rows, scorer, load_image, region) -> list[tuple[list[float] | None, str | None]]:
    """For each row its candidates' stored log-probabilities, or the error."""
    table = [[candidate.get("logprob") for candidate in row["candidates"]] for row in rows]
    missing = "A candidate has no stored `logprob` to be ranked by: choose another scorer, or generate again."
    return [(None, missing) if None in scores else (scores, None) for scores in table]


def _score_with_images(rows, scorer, load_image, region) -> list[tuple[list[float | None] | None, str | None]]:
    """For each row its candidates' scores, or the error; one pass of the scorer, each image encoded once."""
    views, images, results = Views(), {}, []
    for row in rows:
        if not row.get("image"):
            results.append((None, "The row has no image to compare with; the scorer `logprob` needs none."))
            continue
        try:
            if row["image"] not in images:
                images[row["image"]] = load_image(row).convert("RGB")
        except Exception as problem:  # a missing, broken or forbidden image must not lose the other rows
            results.append((None, f"The image cannot be read ({type(problem).__name__}: {problem})."))
        else:
            image = images[row["image"]]
            places = [views.add(row["image"], image, candidate["text"], region) for candidate in row["candidates"]]
            results.append((places, None))

    scores = views.score(scorer)
    return [(places and [scores.get(place) for place in places], error) for places, error in results]


def _choose(row: Row, scores: Sequence[float | None] | None, error: str | None, scorer: Scorer) -> Row:
    """The row with scores, ranks and the chosen response; without scores the order of generation stands."""
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
