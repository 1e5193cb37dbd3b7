# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 3: rounds of supervised fine-tuning with Reflective Correction in between (section 3.3)."""

import copy
import itertools
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled
from transformers.trainer import TRAINER_STATE_NAME

from ..correct import Corrector, check_similarity, check_validation, correct_round, load_similarity, make_corrector
from ..correct.correction_round import is_usable
from ..correct.correction_trainer import ArgmaxRecorder, CorrectionTrainer
from ..correct.teacher_corrector import LoadedTeacher, TeacherCorrector
from ..generation import preserve_training_state
from ..generation.generation_trainer import generate_with_trainer, shards_parameters
from ..kd import distill_loss, logits_distill_loss
from ..rope.saved_positions import bind_settings, teacher_settings
from ..select import Scorer, check_scorer, load_scorer
from ..training.tracked_data import DescribedRows, TrackedData, seeded_subset, with_answers
from ..utils.boxes import strip_boxes
from ..utils.console import Show, bars_of_parts, console
from ..utils.io import iter_jsonl, write_json
from ..utils.pixels import read_pixels
from ..utils.row_index import ComputedRows
from .context import Run
from .recipe import RecipeArguments, beam_settings, teacher_model_arguments
from .served import served_model


logger = logging.getLogger(__name__)


def run_phase(run: Run) -> list[str]:
    """Trains into the phase's folder and writes ``clinkd/corrections``; returns both, relative to ``output_dir``."""
    arguments = run.training_arguments("correct", run.settings.correction_rounds)
    rounds = CorrectionRounds(run, arguments)
    rounds.clear(fresh=arguments.training.resume_from_checkpoint is None)
    run.run_sft(arguments, rounds.make_trainer, rounds.data)
    outputs = [run.folder_of("correct") / TRAINER_STATE_NAME]
    if rounds.folder.is_dir():
        outputs.append(rounds.folder)
    return [run.relative(path) for path in outputs]


class CorrectionRounds:
    """The corrections of a run, in ``clinkd/corrections``.

    ``round-N.outputs.jsonl`` holds the answers after round N, ``round-N.jsonl`` the result for each row, and
    ``round-N.summary.json`` the counts. The summary is written last, so that it exists only for a complete round.
    """

    def __init__(self, run: Run, arguments: RecipeArguments) -> None:
        self.folder = run.folder / "corrections"
        self._run = run
        self._arguments = arguments
        self._settings = run.settings
        self._records = run.settings.correction_outputs == "forward"
        self.data = TrackedData(choose_train=self._check_rows, numbered=self._records)
        self._scorer = recipe_scorer(run.settings) if arguments.training.process_index == 0 else None
        self._trainer: Any = None
        self._recorder: ArgmaxRecorder | None = None
        self._rows: dict[int, Any] = {}

    def clear(self, *, fresh: bool) -> None:
        """Removes an earlier training's corrections if this one starts from the beginning."""
        if fresh and self._run.ranks.rank == 0 and self.folder.is_dir():
            shutil.rmtree(self.folder)
        self._run.ranks.wait("removal of old corrections")
        corrected = len(list(self.folder.glob("round-*.summary.json")))
        self._run.ranks.set_location(f"training of round {corrected + 1}")

    def make_trainer(self, **kwargs: Any) -> CorrectionTrainer:
        """The phase's trainer; ``kwargs`` are stock's."""
        if self._records:
            self._recorder = ArgmaxRecorder(self.folder, kwargs["tokenizer"], self._arguments.training)
        self._trainer = CorrectionTrainer(
            correct=self.correct,
            corrected_rows=self.corrected_rows,
            recorder=self._recorder,
            hidden_loss=distill_loss,
            logits_loss=logits_distill_loss,
            **kwargs,
        )
        return self._trainer

    def correct(self, ended: int) -> None:
        """Corrects after round ``ended``, on all ranks together; does nothing if that was done before."""
        if self._summary_path(ended).is_file():
            return
        aligned = self.data.aligned(is_eval=False)
        wanted = self._settings.correction_max_samples or len(aligned)
        chosen = seeded_subset(len(aligned), wanted, self._arguments.training.seed, f"correction {ended}")
        described = DescribedRows(aligned.select(chosen), chosen)
        keys = described.keys()
        if self._recorder is not None:
            answers = self._recorder.collect(ended, chosen, keys)
        else:
            answers = self._generate(aligned.select(chosen), keys, ended)
        if self._run.ranks.rank == 0:
            with self._run.ranks.long_running(f"correction after round {ended}"):
                self._judge(described, answers, ended)
        self._run.ranks.wait(f"correction after round {ended}")
        self._run.ranks.set_location(f"training of round {ended + 1}")

    def corrected_rows(self, number: int) -> Any:
        """Tokenised corrected rows that join round ``number`` (counted from 0), ``None`` if there are none."""
        if number in self._rows or not self._summary_path(number).is_file():
            return self._rows.get(number)
        recorded = [row for row in iter_jsonl(self._path(number)) if row["status"] == "corrected"]
        corrected = list(filter(is_usable, recorded))
        if len(corrected) < len(recorded) and self._run.ranks.rank == 0:
            logger.warning(
                "%d of the %d corrections recorded in %s are not trained on: their text fails a check that was added "
                "later. To correct these rows again, delete the files of the round.",
                len(recorded) - len(corrected), len(recorded), self._path(number),
            )  # fmt: skip
        self._rows[number] = None
        if corrected:
            rows = self.data.aligned(is_eval=False).select([int(row["id"].split(":", 1)[0]) for row in corrected])
            rows = with_answers(rows, [row["corrected"] for row in corrected])
            self._rows[number] = self.data.number(self.data.tokenize(rows, for_generation=False), known=False)
        return self._rows[number]

    def _check_rows(self, rows: Any) -> Any:
        self._run.require_images(DescribedRows(rows))
        return rows

    def _judge(self, described: DescribedRows, answers: Sequence[dict[str, Any]], ended: int) -> None:
        """Judges and corrects on rank 0, which may take hours; may stop between two groups of rows."""
        settings = self._settings
        earlier = (row for number in range(1, ended) for row in iter_jsonl(self._path(number)))
        earlier_corrections = (row["corrected"] for row in earlier if row["status"] == "corrected")
        labels = (row[0]["content"] for row in self.data.aligned(is_eval=False)["_response"])
        with bars_of_parts(None if self._arguments.training.disable_tqdm else console) as show:
            summary = correct_round(
                ComputedRows(_answered, described, answers),
                similarity=load_similarity(settings.correction_similarity, model=settings.correction_similarity_model),
                corrector=recipe_corrector(
                    settings, self._arguments.training.per_device_eval_batch_size, self._loaded_teacher
                ),
                threshold=settings.correction_threshold,
                iou_threshold=settings.correction_iou,
                candidates=settings.correction_candidates,
                out_path=self._path(ended),
                existing_labels=itertools.chain(labels, earlier_corrections),
                scorer=self._scorer,
                token_prices=settings.correction_token_prices,
                progress=self._progress(show),
            )
        write_json(self._summary_path(ended), summary.as_dict())

    @contextmanager
    def _loaded_teacher(self) -> Iterator[LoadedTeacher]:
        """The recipe's teacher on the training device, beside student and optimizer; freed when the block ends."""
        from llamafactory.extras.misc import torch_gc

        arguments, module = RecipeArguments(*map(copy.copy, self._arguments)), self._run.workflow.module
        arguments.finetuning.kd_teacher_offload = arguments.data.enable_thinking = False
        tokenizer = module.load_tokenizer(teacher := teacher_model_arguments(arguments))["tokenizer"]
        template = module.get_template_and_fix_tokenizer(tokenizer, arguments.data)

        def encode(text: str) -> list[int]:
            turns = [{"role": "user", "content": text}, {"role": "assistant", "content": ""}]
            return template.encode_oneturn(tokenizer, turns)[0]

        with preserve_training_state(self._trainer.model):
            model = self._run.workflow.load_teacher(arguments)
            if teacher.quantization_bit is None:
                model.to(arguments.training.device)
            bind_settings(model, teacher_settings(teacher, self._settings))
            try:
                yield LoadedTeacher(model, tokenizer, encode)
            finally:
                del model
                torch_gc()

    def _progress(self, show: Show) -> Callable[[str, int, int], None]:
        """Shows how far each stage is, which may take hours, and stops the run if requested."""

        def report(stage: str, done: int, total: int) -> None:
            show(f"Reflective Correction, {stage}", done, total)
            self._run.stop_if_requested(f"{done} of {total} rows at stage {stage}")

        return report

    def _generate(self, aligned: Any, keys: Sequence[str], ended: int) -> Sequence[dict[str, Any]]:
        trainer, served = self._trainer, served_model(self._settings, "correct")
        if served is not None:
            wanted = f"checkpoint-{trainer.state.global_step} in {self._run.folder_of('correct')}"
            logger.info("The server must serve the model after round %d: %s.", ended, wanted)
        tokenizer = trainer.processing_class
        collate = copy.copy(trainer.data_collator)
        collate.model = collate.get_rope_func = collate.pad_to_multiple_of = None
        padding_side, tokenizer.padding_side = tokenizer.padding_side, "left"
        try:
            return generate_with_trainer(
                trainer,
                trainer.model_wrapped if shards_parameters(trainer) else trainer.model,
                self.data.tokenize(aligned, for_generation=True),
                collate,
                keys,
                out_path=self.folder / f"round-{ended}.outputs.jsonl",
                gen_kwargs={**trainer._gen_kwargs, **beam_settings(self._arguments.generating, 1)},
                title=f"answers after round {ended}",
                served=served,
                aligned=lambda: aligned,
                ranks=self._run.ranks,
                should_stop=self._run.should_stop,
            )
        finally:
            tokenizer.padding_side = padding_side

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number}.jsonl"

    def _summary_path(self, number: int) -> Path:
        return self.folder / f"round-{number}.summary.json"


def _answered(row: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """A row to judge: a described row with its key as ``id`` and the model's answer as ``response``."""
    response = answer["candidates"][0]["text"] if answer["candidates"] else ""  # could not be generated
    return {**row, "id": row["key"], "response": response}


def check_correction(settings: Any) -> None:
    """Checks, before the first phase, what would end the run after its first round; loads no model.

    Raises:
        ValueError: If the corrector is unusable with these settings, or the similarity takes no such model.
        ImportError: If a library, or the packaged sentence model, is not installed.
        ScorerError: If ``correction_scorer`` is not a usable scorer.
    """
    if settings.correction_rounds > 1:  # nothing is corrected after the last round
        if settings.corrector == "teacher" and (is_deepspeed_zero3_enabled() or is_fsdp_enabled()):
            raise ValueError(
                "`corrector: teacher` loads the teacher on the first rank alone, which DeepSpeed ZeRO-3 and FSDP do "
                "not allow: train with DDP or ZeRO-2, or set another `corrector`."
            )
        recipe_corrector(settings)
        check_similarity(settings.correction_similarity, settings.correction_similarity_model)
        check_validation()
        if settings.correction_scorer:
            check_scorer(settings.correction_scorer)


def recipe_corrector(settings: Any, batch_size: int = 1, load_teacher: Any = None) -> Corrector:
    """Builds the corrector that the ClinKD keys name; ``load_teacher`` enters with a :class:`.LoadedTeacher`."""
    if settings.corrector == "teacher":
        return TeacherCorrector(
            ":".join(map(str, filter(None, (settings.ref_model, settings.ref_model_adapters)))),
            load_teacher,
            candidates=settings.correction_candidates,
            batch_size=batch_size,
            prompt_path=settings.correction_prompt,
        )
    return make_corrector(
        settings.corrector,
        model=settings.correction_model,
        base_url=settings.correction_base_url,
        candidates=settings.correction_candidates,
        concurrency=settings.correction_concurrency,
        max_requests=settings.correction_max_requests,
        allow_remote=settings.correction_allow_remote,
        allow_http=settings.correction_allow_http,
        prompt_path=settings.correction_prompt,
    )


class ImageTextScore:
    """The CLIP score of a row's image and a wording as a cosine in [-1, 1], the scale of the text similarity.

    Boxes and tags are removed from the wording first. Without an image or without words the score is 0.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.name = scorer.short_name
        self._scorer = scorer

    def scores(self, image: Any, texts: Sequence[str]) -> list[float]:
        """The score of each text for the image at the path ``image``."""
        words = [strip_boxes(text) for text in texts]
        if not image or not any(words):
            return [0.0] * len(texts)
        scores = self._scorer.score([read_pixels(image)], [words])[0]
        return [score / 100 if text else 0.0 for score, text in zip(scores, words, strict=True)]


def recipe_scorer(settings: Any) -> ImageTextScore | None:
    """Loads the scorer that ``correction_scorer`` names, if any; ``ScorerError`` if it cannot be loaded."""
    return ImageTextScore(load_scorer(settings.correction_scorer)) if settings.correction_scorer else None
