# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One correction between two rounds, in a training run: record the model's answers, judge and correct, feed back."""

import copy
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..correct.correction_round import correct_round
from ..generation import generate_rows
from ..generation.generation_trainer import shards_parameters
from ..training.tracked_data import TrackedData, describe_rows, with_answers
from ..utils.io import read_json, read_jsonl, write_json
from .context import Run, seeded_subset
from .recipe import beam_settings


logger = logging.getLogger(__name__)


class CorrectionRounds:
    """The corrections of a run, in ``clinkd/corrections``.

    ``round-N.outputs.jsonl`` holds the answers after round N, ``round-N.jsonl`` what became of each row, and
    ``round-N.summary.json`` the counts; the last one is written at the end, so that its presence means a whole round.

    Args:
        folder: Where they are kept.
        data: The training rows.
        settings: The ClinKD keys.
        arguments: The phase's recipe.
        similarity: Loads the text similarity, on rank 0 only.
        corrector: Loads the corrector, on rank 0 only.
        scorer: Scores candidates against the image when the best one is chosen; rank 0 only.
        run: The run, for its ranks and for requests to stop.
    """

    def __init__(
        self,
        folder: Path,
        data: TrackedData,
        settings: Any,
        arguments: Any,
        *,
        similarity: Callable[[], Any],
        corrector: Callable[[], Any],
        scorer: Any = None,
        run: Run,
    ) -> None:
        self.folder = folder
        self.trainer: Any = None
        self.recorder: Any = None
        self._data = data
        self._settings = settings
        self._arguments = arguments
        self._similarity = similarity
        self._corrector = corrector
        self._scorer = scorer
        self._run = run
        self._rows: dict[int, Any] = {}

    def begin(self, *, fresh: bool) -> None:
        """Forgets the corrections of another model: a training that starts anew has none."""
        if fresh and self._run.ranks.rank == 0 and self.folder.is_dir():
            shutil.rmtree(self.folder)
        self._run.ranks.wait("the old corrections")

    def correct(self, ended: int) -> None:
        """Corrects after round ``ended``, on all ranks together; does nothing if that was done before."""
        if self._summary_path(ended).is_file():
            return
        aligned = self._data.aligned(is_eval=False)
        described = describe_rows(aligned)
        chosen = self._choose(len(described), ended)
        keys = [described[index]["key"] for index in chosen]
        if self.recorder is not None:
            answers = self.recorder.collect(ended, chosen, keys)
        else:
            answers = self._generate(aligned.select(chosen), keys, ended)
        if self._run.ranks.rank == 0:
            with self._run.ranks.long_running(f"correction after round {ended}"):
                self._judge(described, chosen, answers, ended)
        self._run.ranks.wait(f"correction after round {ended}")

    def _judge(
        self, described: list[dict[str, Any]], chosen: list[int], answers: list[dict[str, Any]], ended: int
    ) -> None:
        """Judges and corrects on rank 0, for as long as the corrector takes; may stop between two groups of rows."""
        rows = [
            {**described[index], "id": described[index]["key"], "response": _best(answer)}
            for index, answer in zip(chosen, answers, strict=True)
        ]
        summary = correct_round(
            rows,
            similarity=self._similarity(),
            corrector=self._corrector(),
            threshold=self._settings.correction_threshold,
            iou_threshold=self._settings.correction_iou,
            candidates=self._settings.correction_candidates,
            out_path=self._path(ended),
            existing_labels=[*(row["annotation"] for row in described), *self._earlier_corrections(ended)],
            scorer=self._scorer,
            token_prices=self._settings.correction_token_prices,
            progress=self._progress(),
        )
        write_json(self._summary_path(ended), summary.as_dict())

    def _progress(self) -> Callable[[str, int, int], None]:
        """Says each tenth of a stage, which a server may stretch to hours, and leaves where the run is to stop."""
        told: set[tuple[str, int]] = set()

        def tell(stage: str, done: int, total: int) -> None:
            tenth = 10 * done // max(total, 1)
            if tenth and (stage, tenth) not in told:
                told.add((stage, tenth))
                logger.info("Reflective Correction: stage %s, %d of %d rows.", stage, done, total)
            self._run.leave_if_asked(f"{done} of {total} rows at stage {stage}")

        return tell

    def flush(self) -> None:
        """Puts what was recorded while training on disk, before a checkpoint counts it as done."""
        if self.recorder is not None:
            self.recorder.flush()

    def corrected_rows(self, number: int) -> Any:
        """Tokenised corrected rows that join round ``number`` (counted from 0), ``None`` if there are none."""
        if number not in self._rows and self._summary_path(number).is_file():
            self._rows[number] = self._tokenize_corrected(number)
        return self._rows.get(number)

    def _tokenize_corrected(self, number: int) -> Any:
        if read_json(self._summary_path(number))["corrected"] == 0:
            return None
        aligned = self._data.aligned(is_eval=False)
        indices, answers = [], []
        for row in read_jsonl(self._path(number)):
            if row["status"] == "corrected":
                indices.append(int(row["id"].split(":", 1)[0]))
                answers.append(row["corrected"])
        tokenized = self._data.tokenize(with_answers(aligned.select(indices), answers), for_generation=False)
        return self._data.number(tokenized, known=False)

    def _generate(self, aligned: Any, keys: list[str], ended: int) -> list[dict[str, Any]]:
        """The model's answers to the training questions."""
        trainer = self.trainer
        tokenizer = trainer.processing_class
        collate = copy.copy(trainer.data_collator)
        collate.model = collate.get_rope_func = collate.pad_to_multiple_of = None
        padding_side, tokenizer.padding_side = tokenizer.padding_side, "left"
        try:
            return generate_rows(
                trainer.model_wrapped if shards_parameters(trainer) else trainer.model,
                tokenizer,
                self._data.tokenize(aligned, for_generation=True),
                collate,
                keys,
                self.folder / f"round-{ended}.outputs.jsonl",
                gen_kwargs={**trainer._gen_kwargs, **beam_settings(self._arguments.generating, 1)},
                batch_size=trainer.args.per_device_eval_batch_size,
                process_index=trainer.args.process_index,
                num_processes=trainer.args.world_size,
                barrier=lambda: self._run.ranks.wait(f"answers after round {ended}"),
                should_stop=self._run.should_stop,
                progress=None if trainer.args.disable_tqdm else f"answers after round {ended}",
                synced_gpus=shards_parameters(trainer),
                seed=trainer.args.seed,
            )
        finally:
            tokenizer.padding_side = padding_side

    def _choose(self, size: int, ended: int) -> list[int]:
        wanted = self._settings.correction_max_samples or size
        return seeded_subset(size, wanted, self._arguments.training.seed, f"correction {ended}")

    def _earlier_corrections(self, ended: int) -> list[str]:
        """Wordings that earlier rounds have brought in already."""
        earlier = [row for number in range(1, ended) for row in read_jsonl(self._path(number))]
        return [row["corrected"] for row in earlier if row["status"] == "corrected"]

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number}.jsonl"

    def _summary_path(self, number: int) -> Path:
        return self.folder / f"round-{number}.summary.json"


def _best(answer: dict[str, Any]) -> str:
    """The first answer; a row that could not be generated counts as an empty answer."""
    return answer["candidates"][0]["text"] if answer["candidates"] else ""
