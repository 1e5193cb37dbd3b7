# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0


"""SPICE for referring captions: the real one where its parts are at hand, else an approximation named as such.

SPICE (Anderson et al., ECCV 2016) compares the scene-graph tuples of a caption with those of its reference: F-score
over objects, attributes and relations, where words match if equal or synonyms.

The real one is Java: ``spice-1.0.jar`` comes with ``pycocoevalcap``, but the two jars of Stanford CoreNLP 3.6.0
(``stanford-corenlp-3.6.0.jar`` and ``stanford-corenlp-3.6.0-models.jar``, from the archive
``stanford-corenlp-full-2015-12-09``) do not. Give their folder as ``spice_jars``.

``SPICE-approx`` takes tuples from :mod:`.scene_graph` and matches words that are equal or in one group of
``SYNONYMS``. It stands in where WordNet and CoreNLP cannot be had; its numbers are not the paper's SPICE.
"""

import json
import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..utils.boxes import strip_boxes
from .java import coco_folder, java_command
from .scene_graph import Tuples, parser_name, scene_graphs


SPICE, SPICE_APPROX = "SPICE", "SPICE-approx"
CORENLP_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

SYNONYMS = (
    ("image", "picture", "photo", "photograph", "scan"),
    ("large", "big"),
    ("small", "little", "tiny"),
    ("show", "display", "depict", "reveal", "demonstrate", "illustrate"),
    ("locate", "situate", "position"),
    ("near", "beside", "adjacent"),
    ("inside", "within"),
    ("tumor", "tumour"),
    ("edema", "oedema"),
    ("hemorrhage", "haemorrhage"),
    ("esophagus", "oesophagus"),
    ("gray", "grey"),
    ("color", "colour"),
    ("center", "centre"),
    ("x-ray", "xray", "radiograph"),
    ("region", "area"),
    ("structure", "formation"),
    ("round", "circular"),
)
_GROUP = {word: words[0] for words in SYNONYMS for word in words}


def tuple_f_score(candidate: Tuples, reference: Tuples) -> float:
    """F-score of two sets of tuples, words within one group of synonyms taken as one; 0 when either set is empty."""
    ours, theirs = _canonical(candidate), _canonical(reference)
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours and theirs else 0.0


def spice_scores(
    rows: Sequence[dict],
    *,
    spice_jars: str | Path | None = None,
    parser: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[np.ndarray, str, str]:
    """The SPICE or SPICE-approx F-score of each row.

    Args:
        rows: Rows with ``annotation`` and ``response``; tags and boxes are taken out before SPICE-approx.
        spice_jars: Folder of the CoreNLP 3.6.0 jars; None for SPICE-approx.
        parser: SPICE-approx's parser: ``auto``, ``spacy`` or ``rules``.
        progress: Called with the stage, the captions done and all captions.

    Returns:
        float64 ``[rows]``; the metric's name, ``SPICE`` or ``SPICE-approx``; what parsed the captions.

    Raises:
        FileNotFoundError: If ``spice_jars`` lacks a jar, or there is no Java to run them.
        RuntimeError: If the Java program fails.
    """
    if spice_jars is not None:
        return np.array(_real_spice(rows, Path(spice_jars))), SPICE, "CoreNLP 3.6.0"

    texts = [strip_boxes(row[side]) for side in ("response", "annotation") for row in rows]
    graphs: dict[str, Tuples] = {}
    distinct = list(dict.fromkeys(texts))
    for text, graph in zip(distinct, scene_graphs(distinct, parser), strict=True):
        graphs[text] = graph
        if progress is not None and len(graphs) % 100 == 0:
            progress(SPICE_APPROX, len(graphs), len(distinct))
    pairs = zip(texts[: len(rows)], texts[len(rows) :], strict=True)
    scores = [_score(candidate, reference, graphs) for candidate, reference in pairs]
    return np.array(scores, dtype=float), SPICE_APPROX, parser_name(parser)


def _score(candidate: str, reference: str, graphs: dict[str, Tuples]) -> float:
    """1 for the same text, so that a reference without any tuple can be reached; else the F-score."""
    if candidate and candidate.lower() == reference.lower():
        return 1.0
    return tuple_f_score(graphs[candidate], graphs[reference])


def _canonical(tuples: Tuples) -> set[tuple[str, ...]]:
    return {tuple(_GROUP.get(word, word) for word in one) for one in tuples}


def require_spice(folder: str | Path) -> None:
    """Checks that the real SPICE can be computed with the jars in ``folder``.

    Raises:
        FileNotFoundError: If a jar is missing, or there is no Java; the message says how to get it.
        ImportError: If ``pycocoevalcap``, which brings SPICE itself, is not installed.
    """
    jars = Path(folder)
    missing = [name for name in CORENLP_JARS if not (jars / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"SPICE needs {' and '.join(missing)} in {jars}: they are in Stanford's archive "
            "stanford-corenlp-full-2015-12-09.zip. Without `spice_jars`, SPICE-approx is computed."
        )
    if java_command() is None:
        raise FileNotFoundError("SPICE needs `java` on the path (Debian: apt-get install default-jre-headless).")
    coco_folder()


def _real_spice(rows: Sequence[dict], jars: Path) -> list[float]:
    """Runs ``spice-1.0.jar`` once for all rows, in a temporary folder."""
    require_spice(jars)
    home = coco_folder() / "spice"
    classes = [home / "spice-1.0.jar", *(jars.resolve() / name for name in CORENLP_JARS), home / "lib" / "*"]
    with tempfile.TemporaryDirectory() as folder:
        given, written = Path(folder, "captions.json"), Path(folder, "scores.json")
        given.write_text(
            json.dumps(
                [{"image_id": i, "test": row["response"], "refs": [row["annotation"]]} for i, row in enumerate(rows)]
            )
        )
        command = [java_command(), "-Xmx8G", "-cp", os.pathsep.join(map(str, classes)), "edu.anu.spice.SpiceScorer"]
        done = subprocess.run(
            [*command, str(given), "-out", str(written), "-subset", "-silent"], capture_output=True, cwd=home
        )
        if done.returncode or not written.exists():
            raise RuntimeError(
                f"SPICE failed (exit code {done.returncode}): {done.stderr.decode(errors='replace')[-800:]}"
            )
        results = {item["image_id"]: float(item["scores"]["All"]["f"]) for item in json.loads(written.read_text())}
    return [0.0 if math.isnan(results[i]) else results[i] for i in range(len(rows))]
