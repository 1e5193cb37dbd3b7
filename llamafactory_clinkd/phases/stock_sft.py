# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One stock SFT run with some of its names replaced: how a phase delegates to LLaMA-Factory without copying it."""

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

from ..rope.saved_positions import apply_saved_positions, saved_settings
from ..rope.square import with_square_images
from ..training.tracked_data import SIDE_COLUMNS, TrackedData
from ..utils.models import keep_trainable
from ..utils.patching import patch_attr


class RecipeArguments(NamedTuple):
    """The five argument groups that LLaMA-Factory parses from a recipe."""

    model: Any
    data: Any
    training: Any
    finetuning: Any
    generating: Any


class StockWorkflow:
    """LLaMA-Factory's ``train.sft.workflow`` with its original ``run_sft``."""

    def __init__(self, module: ModuleType, run_sft: Callable[..., None]) -> None:
        self.module = module
        self._run_sft = run_sft
        # Its own log lines go where LLaMA-Factory's go: to the terminal, and to LLaMA Board's window.
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
            arguments: What stock is called with.
            callbacks: Trainer callbacks, ``ReporterCallback`` last.
            make_trainer: Called in place of ``CustomSeq2SeqTrainer``, with the same keyword arguments.
            data: Receives the rows behind each tokenised data set, and may choose or change them first.
            after_load: Called with the loaded model, before the collator captures its position function.
            image_square: Whether images are resampled to width = height.
        """
        from llamafactory.data import loader

        workflow, stock_load = self.module, self.module.load_model

        def load_model(*args: Any, **kwargs: Any) -> Any:
            model = stock_load(*args, **kwargs)
            return after_load(keep_trainable(model) if arguments.training.do_train else model)

        with contextlib.ExitStack() as stack:
            stack.enter_context(patch_attr(workflow, "CustomSeq2SeqTrainer", make_trainer))
            stack.enter_context(patch_attr(workflow, "load_model", load_model))
            if image_square:
                name = "get_template_and_fix_tokenizer"
                stack.enter_context(patch_attr(workflow, name, with_square_images(getattr(workflow, name))))
            for processor in (loader.SupervisedDatasetProcessor, loader.UnsupervisedDatasetProcessor):
                stack.enter_context(patch_attr(processor, "print_data_example", _print_counts))
            stack.enter_context(patch_attr(loader, "align_dataset", _aligner(loader.align_dataset)))
            stack.enter_context(
                patch_attr(
                    loader, "_get_preprocessed_dataset", _tokenizer_of_rows(loader._get_preprocessed_dataset, data)
                )
            )
            self._run_sft(*arguments, callbacks)

    def load_teacher(self, arguments: RecipeArguments) -> Any:
        """The frozen teacher in evaluation mode, as stock's ``create_ref_model`` loads it.

        With ``kd_teacher_offload`` it is loaded into the machine's memory, else onto this rank's device.
        """
        finetuning, model = copy.copy(arguments.finetuning), copy.copy(arguments.model)
        finetuning.ref_model = finetuning.ref_model or model.model_name_or_path
        if finetuning.kd_teacher_offload:
            model.device_map = {"": "cpu"}
        return self.module.create_ref_model(model, finetuning)

    def load_tokenizers(self, *model_arguments: Any) -> list[dict[str, Any]]:
        """``{"tokenizer", "processor"}`` of each model as stock loads them."""
        return [self.module.load_tokenizer(each) for each in model_arguments]

    def load_config(self, model_arguments: Any) -> Any:
        """A model's configuration as stock loads it."""
        from llamafactory.model import load_config

        return load_config(model_arguments)


def teacher_model_arguments(arguments: RecipeArguments) -> Any:
    """``ModelArguments`` that load the teacher: stock's ``ref_model*`` keys put in place of the model's.

    A recipe with ``ref_model_adapters`` and no ``ref_model`` has the student's base under the teacher's adapters.
    """
    finetuning = arguments.finetuning
    return type(arguments.model).copyfrom(
        arguments.model,
        model_name_or_path=finetuning.ref_model or arguments.model.model_name_or_path,
        adapter_name_or_path=finetuning.ref_model_adapters,
        quantization_bit=finetuning.ref_model_quantization_bit,
    )


def _print_counts(self: Any, example: dict[str, list[int]]) -> None:
    """In place of stock's ``print_data_example``, which puts the first row's text, a patient's maybe, into the log."""
    learned = sum(label >= 0 for label in example["labels"])
    print(f"{len(example['input_ids'])} tokens, {learned} labels (ClinKD prints no text)")


def _aligner(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps the side columns (id, task, modality) that stock drops when it aligns a data set."""

    def align_dataset(dataset: Any, dataset_attr: Any, data_args: Any, training_args: Any) -> Any:
        aligned = stock(dataset, dataset_attr, data_args, training_args)
        if data_args.streaming:
            return aligned
        for column in SIDE_COLUMNS:
            values = dataset[column] if column in dataset.column_names else [None] * len(dataset)
            values = ["" if value is None else str(value) for value in values]
            aligned = aligned.add_column(f"_clinkd_{column}", values)
        return aligned

    return align_dataset


def _tokenizer_of_rows(stock: Callable[..., Any], data: TrackedData) -> Callable[..., Any]:
    """Lets ``data`` choose the rows that stock tokenises, and keeps them beside the result."""

    def _get_preprocessed_dataset(
        dataset: Any, data_args: Any, training_args: Any, stage: str, template: Any, tokenizer: Any, processor: Any =
        None,
        is_eval: bool = False,
    ) -> Any:  # fmt: skip
        def tokenize(rows: Any, for_generation: bool) -> Any:
            settings = training_args
            if for_generation != bool(training_args.predict_with_generate):
                settings = copy.copy(training_args)
                settings.predict_with_generate = for_generation
            return stock(rows, data_args, settings, stage, template, tokenizer, processor, is_eval=for_generation)

        if dataset is None or data_args.streaming:
            return stock(dataset, data_args, training_args, stage, template, tokenizer, processor, is_eval=is_eval)

        rows = data.choose(dataset, is_eval)
        result = stock(rows, data_args, training_args, stage, template, tokenizer, processor, is_eval=is_eval)
        data.keep(rows, is_eval, tokenize)
        return result if is_eval else data.number(result)

    return _get_preprocessed_dataset


def fetch_from_other_hub(model_args: Any) -> None:
    """Fetches a model of ModelScope or openMind as stock does a little later, so that what lies beside it is seen."""
    from llamafactory.extras.misc import try_download_model_from_other_hub

    model_args.model_name_or_path = try_download_model_from_other_hub(model_args)


@contextlib.contextmanager
def saved_positions(workflow: ModuleType, model_args: Any) -> Iterator[None]:
    """Inside, the workflow loads models with the positions, and images with the sides, that they were saved with.

    Args:
        workflow: One of LLaMA-Factory's ``train.*.workflow`` modules.
        model_args: Of the recipe; nothing is changed if no settings were saved beside its model or adapters.
    """
    settings = saved_settings(model_args)
    if settings is None:
        yield
        return

    from llamafactory.train import trainer_utils

    get_template = workflow.get_template_and_fix_tokenizer
    if settings.get("image_square"):
        get_template = with_square_images(get_template)
    with (
        patch_attr(workflow, "load_model", with_positions(workflow.load_model)),
        patch_attr(
            trainer_utils, "load_model", with_positions(trainer_utils.load_model)
        ),  # reference and reward models
        patch_attr(workflow, "get_template_and_fix_tokenizer", get_template),
    ):
        yield


def with_positions(load_model: Callable[..., Any]) -> Callable[..., Any]:
    """Stock's ``load_model``, followed by the positions saved beside what it loaded."""

    def load(tokenizer: Any, model_args: Any, finetuning_args: Any, *args: Any, **kwargs: Any) -> Any:
        return apply_saved_positions(
            load_model(tokenizer, model_args, finetuning_args, *args, **kwargs), model_args, finetuning_args
        )

    return load
