# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Stanford's PTB tokenizer (CoreNLP 3.4.1) and METEOR 1.5, each run as one Java process for all captions.

``pycocoevalcap`` contains both jars but starts them once per set of captions. Here METEOR returns its sufficient
statistics, from which :func:`meteor_score` computes the score of any set of rows (Denkowski and Lavie, WMT 2014).
"""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ..utils.environment import require_library
from .grounding import safe_divide


Progress = Callable[[str, int, int], None]  # called with the stage, the steps done and all steps
METEOR_COLUMNS = 23
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75  # METEOR 1.5's parameters for English
_MATCHER_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
_meteor_lock = threading.RLock()
_meteor: list[subprocess.Popen] = []  # the process that runs, if any
_meteor_users = 0


def java_command() -> str | None:
    """The ``java`` on the PATH, or None."""
    return shutil.which("java")


def coco_folder() -> Path:
    """The folder of ``pycocoevalcap``, which contains the jars.

    Raises:
        ImportError: If it is not installed; the message names the extra.
    """
    return Path(*require_library("pycocoevalcap", "eval", "The caption metrics need").__path__)


def ptb_tokenize(texts: Sequence[str]) -> list[str]:
    """Tokenizes as ``pycocoevalcap`` does, without punctuation: the lower-case tokens of each text, space-separated.

    Raises:
        RuntimeError: If the process fails or returns another number of lines.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

    command = [java_command(), "-cp", STANFORD_CORENLP_3_4_1_JAR, "edu.stanford.nlp.process.PTBTokenizer"]
    command += ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    lines = "".join(one_line(text) + "\n" for text in texts)
    process = subprocess.run(command, input=lines.encode(), capture_output=True, cwd=coco_folder() / "tokenizer")
    tokenized = process.stdout.decode().split("\n")[:-1]
    if process.returncode or len(tokenized) != len(texts):
        raise RuntimeError(
            f"The PTB tokenizer returned {len(tokenized)} lines for {len(texts)} captions (exit code "
            f"{process.returncode}): {process.stderr.decode(errors='replace')[-500:]}"
        )
    punctuation = set(PUNCTUATIONS)
    return [" ".join(word for word in line.rstrip().split(" ") if word not in punctuation) for line in tokenized]


@contextmanager
def kept_meteor() -> Iterator[None]:
    """Inside, all captions are scored by one METEOR process: it reads paraphrases for six seconds when it starts."""
    global _meteor_users
    with _meteor_lock:
        _meteor_users += 1
    try:
        yield
    finally:
        with _meteor_lock:
            _meteor_users -= 1
            if _meteor and not _meteor_users:
                _end(_meteor.pop())


def _end(process: subprocess.Popen) -> None:
    """Closes METEOR's input, with which it ends, and waits for that."""
    with suppress(BrokenPipeError), process:
        process.stdin.close()


def _running_meteor() -> subprocess.Popen:
    if not _meteor:
        command = [java_command(), "-XX:+UseSerialGC", "-jar", "-Xmx2G", "meteor-1.5.jar", "-", "-", "-stdio"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        _meteor.append(subprocess.Popen([*command, "-l", "en", "-norm"], cwd=coco_folder() / "meteor", **pipes))
    return _meteor[0]


def meteor_statistics(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """METEOR's sufficient statistics of tokenized rows, each against the best of its references.

    ``progress`` is called with the number of rows done.

    Returns:
        float64 ``[pairs, 23]``: hypothesis and reference words, their function words, four counts for each of the four
        matchers (content words of each side, function words of each side), chunks, matched words of each side.
        A pair that matches entirely in one chunk has 0 chunks, because METEOR adds pairs up this way.

    Raises:
        RuntimeError: If the process ends before the last pair.
    """
    statistics = np.zeros((len(hypotheses), METEOR_COLUMNS))
    with kept_meteor(), _meteor_lock:
        process = _running_meteor()
        feeder = threading.Thread(target=_write_pairs, args=(process, hypotheses, references), daemon=True)
        feeder.start()
        try:
            for row in range(len(hypotheses)):
                values = process.stdout.readline().split()
                if len(values) != METEOR_COLUMNS:
                    raise RuntimeError(
                        f"METEOR ended after {row} of {len(hypotheses)} captions. It needs 2 GB for its Java heap."
                    )
                statistics[row] = [float(value) for value in values]
                if progress is not None and ((row + 1) % 100 == 0 or row + 1 == len(hypotheses)):
                    progress(row + 1)
        except BaseException:
            process.kill()
            _meteor.remove(process)
            raise
        finally:
            feeder.join()
            if process not in _meteor:
                _end(process)
    identical = (statistics[:, [21, 22]] == statistics[:, [0, 1]]).all(axis=1) & (statistics[:, 20] == 1)
    statistics[identical, 20] = 0
    return statistics


def meteor_score(sums: np.ndarray) -> np.ndarray:
    """METEOR 1.5 of summed statistics (Denkowski and Lavie 2014, equations 1 to 5, English parameters).

    float64 ``[..., 23]`` to ``[...]``, in [0, 1]; 0 where nothing matches.
    """
    words, function_words = sums[..., :2], sums[..., 2:4]  # [..., (hypothesis, reference)]
    matches = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4)  # [..., matcher, (content, function) of both sides]
    chunks, matched_h, matched_r = (sums[..., i] for i in (20, 21, 22))

    weighted = np.einsum("...mk,m->...k", matches, _MATCHER_WEIGHTS)
    ratios = safe_divide(
        _DELTA * weighted[..., :2] + (1 - _DELTA) * weighted[..., 2:],
        _DELTA * (words - function_words) + (1 - _DELTA) * function_words,
    )
    precision, recall = ratios[..., 0], ratios[..., 1]
    f_mean = safe_divide(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    return f_mean * (1 - _GAMMA * safe_divide(chunks, (matched_h + matched_r) / 2) ** _BETA)


def one_line(text: str) -> str:
    """The text with every kind of line break as a space: the Java programs read one caption per line."""
    return " ".join(text.splitlines())


def _write_pairs(process: subprocess.Popen, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Writes every row to METEOR's standard input; the reader reports a process that ended early."""
    with suppress(BrokenPipeError):
        for hypothesis, texts in zip(hypotheses, references, strict=True):
            fields = (one_line(text).replace("|||", " ") for text in (*texts, hypothesis.replace("  ", " ")))
            process.stdin.write(("SCORE ||| " + " ||| ".join(fields) + "\n").encode())
        process.stdin.flush()
