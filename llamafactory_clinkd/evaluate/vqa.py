# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""VQA as VQA-RAD, SLAKE, PathVQA and PMC-VQA are scored: accuracy of closed questions, recall of open ones.

The protocol is LLaVA-Med's (Li et al., NeurIPS 2023, and its ``llava/eval/run_eval.py``). Closed questions have yes,
no or one of several choices as their answer. Of open ones, recall and F1 compare the answer's words with the ground
truth's as that code does, which counts a word of the answer as often as the answer repeats it; its "exact match" is a
share of words, here it is equality. That code leaves out the closed answers that have a yes or no and are wrong, and
takes the "no" of "normal" for one; neither is repeated here.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .answer_words import answer_words, has_chinese
from .grounding import references
from .resampling import Clusters, Draws, cluster_sums, interval, part_draws


CLOSED, OPEN = "CLOSED", "OPEN"
PARTS = {"VQA, closed": "closed_accuracy", "VQA, open": "open_recall"}
"""The scores of closed and of open questions, which :mod:`.compare` and the report show by themselves."""
GROUPINGS = ("answer_type", "content_type", "organ", "modality", "language")
_TYPES = {"closed": CLOSED, "close": CLOSED, "yes/no": CLOSED, "yesno": CLOSED, "choice": CLOSED, "open": OPEN}
_VERDICTS = dict.fromkeys(("yes", "是", "是的", "对", "对的"), "yes") | dict.fromkeys(
    ("no", "不", "否", "不是", "不对"), "no"
)
_LETTER = re.compile(
    r"^\W*(?:(?:the\s+)?(?:correct\s+|best\s+)?(?:answer|option|choice)(?:\s+is)?\W*)?([A-H])(?:\s*[).:,]|\W*$)",
    re.IGNORECASE,
)


def answer_type(row: Mapping[str, Any]) -> str:
    """``CLOSED`` or ``OPEN``: the row's own, else closed for choices and where every ground truth is yes or no."""
    known = _TYPES.get(str(row.get("answer_type") or "").strip().lower())
    if known:
        return known
    is_closed = row.get("choices") or all("".join(answer_words(text)) in _VERDICTS for text in references(row))
    return CLOSED if is_closed else OPEN


def closed_is_right(response: str, truths: Sequence[str], choices: Sequence[str] = ()) -> bool:
    """Whether an answer to a closed question is one of ``truths``.

    A ground truth of yes or no is compared with the first yes or no of the answer. Of several ``choices``, the
    answer's letter or the only choice whose words it contains is compared; a truth may be the letter or the text. Any
    other truth must stand in the answer, word for word.
    """
    words = answer_words(response)
    if choices:
        return any(_choice(truth, choices) == _choice(response, choices) is not None for truth in truths)
    verdict = next((_VERDICTS[word] for word in words if word in _VERDICTS), None)
    for truth in map(answer_words, truths):
        expected = _VERDICTS.get("".join(truth))
        if verdict == expected if expected else _contains(words, truth):
            return True
    return False


def open_scores(response: str, truth: str) -> tuple[float, float, float]:
    """Recall, F1 and equality of an open answer against one ground truth, each in [0, 1]."""
    answer, target = answer_words(response), answer_words(truth)
    given, wanted = Counter(answer), Counter(target)
    right = sum(count for word, count in given.items() if word in wanted)
    missed = sum(count for word, count in wanted.items() if word not in given)
    if not right:
        return 0.0, 0.0, float(bool(target) and answer == target)
    precision, recall = right / len(answer), right / (right + missed)
    return recall, 2 * precision * recall / (precision + recall), float(answer == target)


def vqa_statistics(rows: Sequence[dict]) -> np.ndarray:
    """float64 ``[rows, 7]``: score, 1, closed right, closed, recall, F1 and exact match of open ones.

    The score is that of the row's type: 0 or 1 if closed, recall if open. The best of several ground truths counts.
    """
    table = np.zeros((len(rows), 7))
    table[:, 1] = 1
    for line, row in zip(table, rows, strict=True):
        if answer_type(row) == CLOSED:
            line[0] = line[2] = closed_is_right(row["response"], references(row), row.get("choices") or ())
            line[3] = 1
        else:
            line[4:] = np.max([open_scores(row["response"], truth) for truth in references(row)], axis=0)
            line[0] = line[4]
    return table


def vqa_breakdown(
    rows: Sequence[dict],
    table: np.ndarray,
    *,
    of_row: np.ndarray,
    clusters: Clusters,
    weights: Iterable[np.ndarray],
    confidence: float,
) -> dict[str, Any]:
    """The scores of all rows together, and of each group ``by`` the columns that the rows have.

    Each: ``n``, ``closed`` (its number), ``closed_accuracy``, ``open_recall``, ``open_f1``, ``open_exact_match`` (None
    without such rows) and ``accuracy`` (closed right or open exact), and ``intervals`` of these five. ``weights`` draw
    the ``clusters`` (:func:`.resampling.cluster_weights`), ``of_row`` are those of the rows; without draws there are
    no intervals.
    """
    by: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    spelling: dict[str, dict[str, str]] = defaultdict(dict)
    for index, row in enumerate(rows):
        for column in GROUPINGS:
            if value := _group(row, column):
                by[column][spelling[column].setdefault(value.casefold(), value)].append(index)
    places = {(column, name): index for column, found in by.items() for name, index in sorted(found.items())}
    places = {("", ""): list(range(len(rows))), **places}
    scores = {key: _scores(table[index].sum(axis=0)) for key, index in places.items()}
    tables = {key: cluster_sums(table[index], of_row[index]) for key, index in places.items()}
    for key, draws in _draws(tables, clusters, weights).items():
        scores[key]["intervals"] = {name: interval(each, confidence) for name, each in draws.items()}
    groups = {
        column: {name: found for (of, name), found in scores.items() if of == column}
        for column in GROUPINGS
        if column in by
    }
    return {**scores["", ""], "by": groups}


def vqa_draws(
    table: np.ndarray, *, of_row: np.ndarray, clusters: Clusters, weights: Iterable[np.ndarray]
) -> dict[str, Draws]:
    """The draws of each score of all rows together; arguments as in :func:`vqa_breakdown`."""
    return _draws({"": cluster_sums(table, of_row)}, clusters, weights)[""]


def _draws(
    tables: Mapping[Hashable, tuple[np.ndarray, np.ndarray]], clusters: Clusters, weights: Iterable[np.ndarray]
) -> dict[Hashable, dict[str, Draws]]:
    """The draws of each group's scores, from its clusters and their sums."""
    drawn: dict[Hashable, list[np.ndarray]] = {key: [] for key in tables}
    for weight in weights:
        for key, (present, sums) in tables.items():
            drawn[key].append(weight[present] @ sums)
    stratum = np.zeros(max(int(each.max()) for each in clusters.strata) + 1, dtype=int)
    for number, members in enumerate(clusters.strata):
        stratum[members] = number
    found: dict[Hashable, dict[str, Draws]] = {}
    for key, (present, sums) in tables.items():
        found[key] = {}
        counted = _ratios(sums.T)
        for name, (right, count) in _ratios(np.array(drawn[key]).T).items() if drawn[key] else ():
            sizes = np.unique(stratum[present[counted[name][1] > 0]], return_counts=True)[1]
            values = np.divide(right, count, out=np.full(len(count), np.nan), where=count > 0)
            # The degrees of freedom of a stratified sample: clusters minus strata.
            found[key][name] = part_draws(values, 1 + int((sizes - 1).sum()))
    return found


def _group(row: dict, column: str) -> str | None:
    """The name of a row's group; a language that is not given is Chinese if the question has Chinese characters."""
    if column == "answer_type":
        return answer_type(row)
    if column == "language" and not row.get("language"):
        return "zh" if has_chinese(row["question"] + row["annotation"]) else "en"
    return str(row[column]).strip() if row.get(column) else None


def _ratios(sums: np.ndarray) -> dict[str, tuple[Any, Any]]:
    """Name of each score -> the two columns that it divides, of ``sums`` ``[7, ...]`` of :func:`vqa_statistics`."""
    _, n, right, closed, recall, f1, exact = sums
    opened = n - closed
    of_open = {"open_recall": (recall, opened), "open_f1": (f1, opened), "open_exact_match": (exact, opened)}
    return {"closed_accuracy": (right, closed), **of_open, "accuracy": (right + exact, n)}


def _scores(sums: np.ndarray) -> dict[str, Any]:
    ratios = {name: float(right / count) if count else None for name, (right, count) in _ratios(sums).items()}
    return {"n": int(sums[1]), "closed": int(sums[3]), **ratios}


def _choice(text: str, choices: Sequence[str]) -> int | None:
    """The index of the choice that a text names by its letter, or as the only one whose words it has; else None."""
    if (letter := _LETTER.match(text)) and (index := ord(letter[1].upper()) - ord("A")) < len(choices):
        return index
    words, options = answer_words(text), [answer_words(choice) for choice in choices]
    found = [i for i, option in enumerate(options) if _contains(words, option)]
    longest = [i for i in found if not any(i != j and _contains(options[j], options[i]) for j in found)]
    return longest[0] if len(longest) == 1 else None


def _contains(words: list[str], part: list[str]) -> bool:
    """Whether ``part``, which is not empty, stands in ``words`` without a gap."""
    return bool(part) and any(words[i : i + len(part)] == part for i in range(len(words) - len(part) + 1))
