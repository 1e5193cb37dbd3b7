# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""SPICE for referring captions: the original in Java if its jars are available, else an approximation.

SPICE (Anderson et al., ECCV 2016) is the F-score of a caption's scene-graph tuples (objects, attributes and relations)
against those of all its references; words match if they are equal or synonyms.

``pycocoevalcap`` contains ``spice-1.0.jar``, but not the two :data:`CORENLP_JARS` from Stanford's archive
``stanford-corenlp-full-2015-12-09``. ``spice_jars`` is their folder.

``SPICE-approx`` compares the tuples of :mod:`.scene_graph`; words match if they are equal or in one group of
:data:`SYNONYMS`. It needs neither WordNet nor CoreNLP, and its scores are not the paper's SPICE.
"""

import json
import math
import os
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from ..utils.boxes import strip_boxes
from .grounding import references
from .java import Progress, coco_folder, java_command
from .scene_graph import Tuples, parser_name, scene_graphs


SPICE, SPICE_APPROX = "SPICE", "SPICE-approx"
CORENLP_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

_SYNONYMS = (
    "image picture photo photograph scan; large big; small little tiny; locate situate position; "
    "show display depict reveal demonstrate illustrate; near beside adjacent; inside within; tumor tumour; "
    "edema oedema; hemorrhage haemorrhage; esophagus oesophagus; gray grey; color colour; center centre; "
    "x-ray xray radiograph; region area; structure formation; round circular"
).split(";")
SYNONYMS = [group.split() for group in _SYNONYMS]
_CANONICAL = {word: words[0] for words in SYNONYMS for word in words}


def spice_scores(
    rows: list[dict], *, spice_jars: str | Path | None = None, parser: str = "auto", progress: Progress | None = None
) -> tuple[np.ndarray, str, str]:
    """The F-score of each row: SPICE with ``spice_jars``, else SPICE-approx, which ignores tags and boxes.

    Returns:
        float64 ``[rows]``; the metric's name; the name of the parser.

    Raises:
        FileNotFoundError: If ``spice_jars`` lacks a jar, or there is no Java to run them.
        RuntimeError: If the Java program fails.
    """
    if spice_jars is not None:
        return np.array(_java_spice(rows, Path(spice_jars))), SPICE, "CoreNLP 3.6.0"

    texts = [strip_boxes(row["response"]) for row in rows]
    truths = [[strip_boxes(text) for text in references(row)] for row in rows]
    graphs: dict[str, Tuples] = {}
    distinct = list(dict.fromkeys([*texts, *chain.from_iterable(truths)]))
    for text, graph in zip(distinct, scene_graphs(distinct, parser), strict=True):
        graphs[text] = graph
        if progress is not None and (len(graphs) % 100 == 0 or len(graphs) == len(distinct)):
            progress(SPICE_APPROX, len(graphs), len(distinct))
    # Equal texts score 1, so that a reference without any tuple can be matched.
    scores = [
        1.0
        if text and text.lower() in map(str.lower, truth)
        else tuple_f_score(graphs[text], frozenset().union(*(graphs[reference] for reference in truth)))
        for text, truth in zip(texts, truths, strict=True)
    ]
    parsed_by = parser_name(parser)
    return np.array(scores, dtype=float), named_with_parser(SPICE_APPROX, parsed_by), parsed_by


def named_with_parser(metric: str, parser: str | None) -> str:
    """A metric's name with the parser that its value depends on: ``SPICE-approx (spaCy)`` or ``SPICE-approx (rules)``.

    >>> named_with_parser("SPICE-approx", "spaCy en_core_web_sm 3.8.0"), named_with_parser("SPICE", "CoreNLP 3.6.0")
    ('SPICE-approx (spaCy)', 'SPICE')
    """
    return f"{metric} ({parser.split()[0]})" if metric == SPICE_APPROX and parser else metric


def tuple_f_score(candidate: Tuples, reference: Tuples) -> float:
    """F-score of two sets of tuples, with synonyms as equal words; 0 if either set is empty."""
    a, b = ({tuple(_CANONICAL.get(word, word) for word in each) for each in side} for side in (candidate, reference))
    return 2 * len(a & b) / (len(a) + len(b)) if a and b else 0.0


def require_spice(folder: str | Path) -> None:
    """Checks that the original SPICE can run with the jars in ``folder``.

    Raises:
        FileNotFoundError: If a jar is missing, or there is no Java; the message contains the fix.
        ImportError: If ``pycocoevalcap``, which contains SPICE itself, is not installed.
    """
    jars = Path(folder)
    missing = [name for name in CORENLP_JARS if not (jars / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"SPICE needs {' and '.join(missing)} in {jars}: they are in Stanford's archive "
            "stanford-corenlp-full-2015-12-09.zip. Without `spice_jars`, SPICE-approx is computed."
        )
    if java_command() is None:
        raise FileNotFoundError("SPICE needs `java` on the PATH (Debian: apt-get install default-jre-headless).")
    coco_folder()


def _java_spice(rows: Sequence[dict], jars: Path) -> list[float]:
    """Runs ``spice-1.0.jar`` once for all rows, in a temporary folder."""
    require_spice(jars)
    home = coco_folder() / "spice"
    classes = [home / "spice-1.0.jar", *(jars.resolve() / name for name in CORENLP_JARS), home / "lib" / "*"]
    pairs = [{"image_id": i, "test": row["response"], "refs": references(row)} for i, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        captions, scores = Path(folder, "captions.json"), Path(folder, "scores.json")
        captions.write_text(json.dumps(pairs))
        command = [java_command(), "-Xmx8G", "-cp", os.pathsep.join(map(str, classes)), "edu.anu.spice.SpiceScorer"]
        command += [str(captions), "-out", str(scores), "-subset", "-silent"]
        process = subprocess.run(command, capture_output=True, cwd=home)
        if process.returncode or not scores.exists():
            raise RuntimeError(
                f"SPICE failed (exit code {process.returncode}): {process.stderr.decode(errors='replace')[-800:]}"
            )
        results = {item["image_id"]: float(item["scores"]["All"]["f"]) for item in json.loads(scores.read_text())}
    return [0.0 if math.isnan(results[i]) else results[i] for i in range(len(rows))]
