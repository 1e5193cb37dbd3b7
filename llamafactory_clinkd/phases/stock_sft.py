# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One stock SFT run with some of its names replaced: how a phase delegates to LLaMA-Factory without copying it."""

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from ..rope.saved_positions import apply_saved_positions, saved_settings
from ..rope.square import with_square_images
from ..training.tracked_data import TrackedData
from ..utils.boxes import SIDE_COLUMNS
from ..utils.models import keep_trainable, require_finite_weights
from ..utils.patching import patch_attr
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
    ) -> None:
        """Runs stock ``run_sft``.

        Args:
            arguments: The recipe.
            callbacks: Trainer callbacks, ``ReporterCallback`` last.
            make_trainer: Called in place of ``CustomSeq2SeqTrainer``, with the same keyword arguments.
            data: Receives the rows behind each tokenised data set, and may choose or change them first.
            after_load: Called with the loaded model, before the collator captures its position function.
            image_square: Whether images are resampled to width = height.
        """
        from llamafactory.data import loader

        workflow, stock_load = self.module, self.module.load_model

        def load_model(*args: Any, **kwargs: Any) -> Any:
            model = require_finite_weights(stock_load(*args, **kwargs), arguments.model.model_name_or_path)
            return after_load(keep_trainable(model) if arguments.training.do_train else model)

        get_template = workflow.get_template_and_fix_tokenizer
        with (
            patch_attr(workflow, "CustomSeq2SeqTrainer", make_trainer),
            patch_attr(workflow, "load_model", load_model),
            patch_attr(workflow, TEMPLATE, with_square_images(get_template) if image_square else get_template),
            patch_attr(loader.SupervisedDatasetProcessor, "print_data_example", _print_counts),
            patch_attr(loader.UnsupervisedDatasetProcessor, "print_data_example", _print_counts),
            patch_attr(loader, "align_dataset", _keep_side_columns(loader.align_dataset)),
            patch_attr(loader, "_get_preprocessed_dataset", _track_rows(loader._get_preprocessed_dataset, data)),
        ):
            self._run_sft(*arguments, callbacks)

    def load_teacher(self, arguments: RecipeArguments) -> Any:
        """The frozen teacher in evaluation mode, from stock's ``create_ref_model``; in CPU memory if offloaded."""
        finetuning, model = copy.copy(arguments.finetuning), copyable_model_arguments(arguments.model)
        finetuning.ref_model = finetuning.ref_model or model.model_name_or_path
        if finetuning.kd_teacher_offload:
            model.device_map = {"": "cpu"}
        return require_finite_weights(self.module.create_ref_model(model, finetuning), finetuning.ref_model)


def _print_counts(self: Any, example: dict[str, list[int]]) -> None:
    """In place of stock's ``print_data_example``, which logs the text of the first row, perhaps a patient's."""
    supervised = sum(label >= 0 for label in example["labels"])
    print(f"{len(example['input_ids'])} tokens, {supervised} labels (ClinKD prints no text)")


def _keep_side_columns(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps the side columns (id, task, modality) that stock drops when it aligns a data set."""

    def align_dataset(dataset: Any, dataset_attr: Any, data_args: Any, training_args: Any) -> Any:
        aligned = stock(dataset, dataset_attr, data_args, training_args)
        if data_args.streaming:
            return aligned
        for column in SIDE_COLUMNS:
            values = dataset[column] if column in dataset.column_names else [""] * len(dataset)
            values = ["" if value is None else str(value) for value in values]
            aligned = aligned.add_column(f"_clinkd_{column}", values)
        return aligned

    return align_dataset


def _track_rows(stock: Callable[..., Any], data: TrackedData) -> Callable[..., Any]:
    """Lets ``data`` choose the rows that stock tokenises, and keep them beside the result."""

    def _get_preprocessed_dataset(dataset, data_args, training_args, *rest, is_eval: bool = False) -> Any:
        preprocess = _one_torch_thread()(stock) if (data_args.preprocessing_num_workers or 1) > 1 else stock

        def tokenize(rows: Any, for_generation: bool) -> Any:
            settings = copy.copy(training_args)
            settings.predict_with_generate = for_generation
            return preprocess(rows, data_args, settings, *rest, is_eval=for_generation)

        if dataset is None or data_args.streaming:
            return stock(dataset, data_args, training_args, *rest, is_eval=is_eval)

        rows = data.choose(dataset, is_eval)
        result = preprocess(rows, data_args, training_args, *rest, is_eval=is_eval)
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
        return (with_square_images(get_template) if settings.get("image_square") else get_template)(*args, **kwargs)

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
