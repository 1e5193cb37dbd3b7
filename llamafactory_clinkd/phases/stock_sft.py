# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One stock SFT run with some of its names replaced: how a phase delegates to LLaMA-Factory without copying it."""

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator
from itertools import repeat
from types import ModuleType
from typing import Any

import torch

from ..generation.generation_trainer import ModelElsewhere
from ..rope.saved_positions import apply_saved_positions, saved_settings
from ..rope.square import with_prepared_images
from ..training.tracked_data import TrackedData
from ..training.whole_rows import RECORDED, check_media, without_cut_rows
from ..utils.boxes import SIDE_COLUMNS
from ..utils.models import keep_trainable, one_vocab_size, require_finite_weights
from ..utils.patching import patch_attr
from ..utils.row_index import Texts
from .recipe import RecipeArguments, copyable_model_arguments


TEMPLATE = "get_template_and_fix_tokenizer"


class StockWorkflow:
    """LLaMA-Factory's ``train.sft.workflow`` with its original ``run_sft``."""

    def __init__(self, module: ModuleType, run_sft: Callable[..., None]) -> None:
        self.module = module
        self._run_sft = run_sft
        # ClinKD's log lines go where LLaMA-Factory's go: to the terminal and to LLaMA Board's window.
        logging.getLogger("llamafactory_clinkd").parent = logging.getLogger("llamafactory")

    def run(
        self,
        arguments: RecipeArguments,
        callbacks: list[Any],
        *,
        make_trainer: Callable[..., Any],
        data: TrackedData,
        after_load: Callable[[Any], Any],
        image_square: bool,
        elsewhere: bool = False,
    ) -> None:
        """Runs stock ``run_sft``.

        Args:
            arguments: The recipe.
            callbacks: Trainer callbacks, ``ReporterCallback`` last.
            make_trainer: Called in place of ``CustomSeq2SeqTrainer``, with the same keyword arguments.
            data: Receives the rows behind each tokenised data set, and may choose or change them first.
            after_load: Called with the loaded model, before the collator captures its position function.
            image_square: Whether images are resampled to width = height.
            elsewhere: Whether a server has the model, so that no weights are loaded and ``after_load`` is not called.
        """
        workflow, stock_load = self.module, self.module.load_model

        def load_model(*args: Any, **kwargs: Any) -> Any:
            if elsewhere:
                return ModelElsewhere(self.load_config(arguments.model))
            model = require_finite_weights(stock_load(*args, **kwargs), arguments.model.model_name_or_path)
            return after_load(one_vocab_size(keep_trainable(model) if arguments.training.do_train else model))

        get_template = workflow.get_template_and_fix_tokenizer
        with (
            patch_attr(workflow, "CustomSeq2SeqTrainer", make_trainer),
            patch_attr(workflow, "load_model", load_model),
            patch_attr(workflow, TEMPLATE, with_prepared_images(get_template, square=image_square)),
            _tracked(data),
        ):
            self._run_sft(*arguments, callbacks)

    @staticmethod
    def load_config(model_args: Any) -> Any:
        """The model's configuration, from stock's ``load_config``."""
        from llamafactory.model.loader import load_config

        return load_config(model_args)

    def load_data(self, arguments: RecipeArguments, data: TrackedData, *, image_square: bool) -> None:
        """Loads and tokenises the rows as :meth:`run` does, without a model, and keeps nothing of them.

        Raises:
            ValueError: If a data set, a row or a file does not fit the recipe.
        """
        tokenizer = self.module.load_tokenizer(arguments.model)
        get_template = self.module.get_template_and_fix_tokenizer
        template = with_prepared_images(get_template, square=image_square)(tokenizer["tokenizer"], arguments.data)
        with _tracked(data):
            self.module.get_dataset(
                template, arguments.model, arguments.data, arguments.training, stage="sft", **tokenizer
            )

    def load_teacher(self, arguments: RecipeArguments) -> Any:
        """The frozen teacher in evaluation mode, from stock's ``create_ref_model``; in CPU memory if offloaded."""
        finetuning, model = copy.copy(arguments.finetuning), copyable_model_arguments(arguments.model)
        finetuning.ref_model = finetuning.ref_model or model.model_name_or_path
        if finetuning.kd_teacher_offload:
            model.device_map = {"": "cpu"}
        return require_finite_weights(self.module.create_ref_model(model, finetuning), finetuning.ref_model)


@contextlib.contextmanager
def _tracked(data: TrackedData) -> Iterator[None]:
    """Inside, LLaMA-Factory's loader keeps side columns, lets ``data`` choose and keep rows, and finds cut ones."""
    from llamafactory.data import loader

    with contextlib.ExitStack() as stack:
        for name, recorded in RECORDED.items():
            stack.enter_context(patch_attr(loader, name, recorded))
        stack.enter_context(patch_attr(loader, "align_dataset", _keep_side_columns(loader.align_dataset)))
        track = _track_rows(loader._get_preprocessed_dataset, data)
        stack.enter_context(patch_attr(loader, "_get_preprocessed_dataset", track))
        yield


def _keep_side_columns(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps the side columns (id, task, modality) that stock drops when it aligns a data set, and each row's place."""

    def align_dataset(dataset: Any, dataset_attr: Any, data_args: Any, training_args: Any) -> Any:
        aligned = stock(dataset, dataset_attr, data_args, training_args)
        for column in SIDE_COLUMNS:
            known = column in dataset.column_names
            batches = dataset.select_columns([column]).iter(batch_size=1000) if known else ()
            values = (value for batch in batches for value in batch[column]) if known else repeat("", len(dataset))
            texts = Texts("" if value is None else str(value) for value in values)
            aligned = aligned.add_column(f"_clinkd_{column}", texts.as_arrow())
        where = dataset_attr.dataset_name
        places = (f"{where}, row {number}" for number in range(1, len(dataset) + 1))
        drawn = dataset_attr.num_samples is not None  # then a row's place in the file is not known here
        texts = Texts(repeat(f"a row of {where}", len(dataset)) if drawn else places)
        return aligned.add_column("_clinkd_row", texts.as_arrow())

    return align_dataset


def _track_rows(stock: Callable[..., Any], data: TrackedData) -> Callable[..., Any]:
    """Lets ``data`` choose the rows that stock tokenises, and keep them beside the result."""

    def _get_preprocessed_dataset(dataset, data_args, training_args, *rest, is_eval: bool = False) -> Any:
        preprocess = _one_torch_thread()(stock) if (data_args.preprocessing_num_workers or 1) > 1 else stock

        def tokenize(rows: Any, for_generation: bool, *, strict: bool = False) -> Any:
            settings = copy.copy(training_args)
            settings.predict_with_generate = for_generation
            tokenized = preprocess(rows, data_args, settings, *rest, is_eval=for_generation)
            return without_cut_rows(tokenized, rows, data_args, strict=strict)

        if dataset is None:
            return None
        rows = data.choose(dataset, is_eval)
        check_media(rows)
        generates = is_eval and training_args.predict_with_generate
        result = tokenize(rows, generates, strict=True)
        data.keep(rows, is_eval, tokenize)
        return result if is_eval else data.number(result)

    return _get_preprocessed_dataset


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Inside, torch computes on one thread: a forked worker waits for ever for threads that fork does not copy.

    See https://docs.pytorch.org/docs/stable/notes/multiprocessing.html#avoiding-and-fighting-deadlocks.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fetch_from_other_hub(model_args: Any) -> None:
    """Downloads a model of ModelScope or openMind as stock does later, so that its saved settings can be read."""
    from llamafactory.extras.misc import try_download_model_from_other_hub

    model_args.model_name_or_path = try_download_model_from_other_hub(model_args)


@contextlib.contextmanager
def saved_positions(workflow: ModuleType, model_args: Any) -> Iterator[None]:
    """Inside, a ``train.*.workflow`` module loads models with the positions and square images saved beside them.

    The files are looked for when stock has loaded the tokenizer: a model of another hub is then in a local folder.
    """
    from llamafactory.train import trainer_utils  # loads reference and reward models

    get_template = getattr(workflow, TEMPLATE)

    def with_saved_images(*args: Any, **kwargs: Any) -> Any:
        settings = saved_settings(model_args, hub=False) or {}
        square = bool(settings.get("image_square"))
        return with_prepared_images(get_template, square=square)(*args, **kwargs)

    with (
        patch_attr(workflow, "load_model", with_positions(workflow.load_model)),
        patch_attr(trainer_utils, "load_model", with_positions(trainer_utils.load_model)),
        patch_attr(workflow, TEMPLATE, with_saved_images),
    ):
        yield


def with_positions(load_model: Callable[..., Any]) -> Callable[..., Any]:
    """Stock's ``load_model``, followed by the positions saved beside the model."""

    def load(tokenizer: Any, model_args: Any, finetuning_args: Any, *args: Any, **kwargs: Any) -> Any:
        model = load_model(tokenizer, model_args, finetuning_args, *args, **kwargs)
        return apply_saved_positions(model, model_args, finetuning_args)

    return load
