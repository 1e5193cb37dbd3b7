# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The table of seams: LLaMA-Factory module -> what is replaced in it.

Each hook patches the *consumer's* name, because LLaMA-Factory imports with ``from x import y``. The heavy parts of
this plugin are imported when a wrapper is called for a recipe with ``use_clinkd: true``, never while hooking.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from .error_lines import explain_missing_gpu, print_error
from .registry import REGISTRY
from .versions import STAGES, UnsupportedVersionError, check_known_problems, require_supported_versions


def hook_parser(parser: ModuleType) -> None:
    """Adds the ClinKD keys to every parser that has fine-tuning arguments, and makes a ClinKD run resumable."""
    try:
        require_supported_versions()
    except UnsupportedVersionError as error:
        _refuse_clinkd_keys(parser, error)
        raise

    stock = parser.FinetuningArguments
    extended = extend_finetuning_arguments(stock)
    for name in ("_TRAIN_ARGS", "_INFER_ARGS", "_EVAL_ARGS", "_TRAIN_MCA_ARGS"):
        REGISTRY.replace_items(getattr(parser, name, []), stock, extended)

    def parse(stock, argument_parser, args=None, *rest, **kwargs):
        from ..arguments import OPTIONS_WRITTEN, check_data_keys
        from .written_keys import read_keys, report_unknown_keys

        args = parser.read_args(args)
        unknown, written = read_keys(argument_parser, args)
        if extended in argument_parser.dataclass_types:
            report_unknown_keys(argument_parser, unknown, args, allowed=kwargs.get("allow_extra_keys", False))
        token = OPTIONS_WRITTEN.set(None if isinstance(args, dict) else written)
        try:
            parsed = stock(argument_parser, args, *rest, **kwargs)
        except ValueError as error:
            if "use_clinkd" in written:
                explain_missing_gpu(error)
            raise
        finally:
            OPTIONS_WRITTEN.reset(token)
        if any(getattr(group, "use_clinkd", False) for group in parsed):
            for group in parsed:
                if isinstance(group, parser.DataArguments):
                    check_data_keys(group)  # before stock demands `max_steps` of a streamed data set
        return parsed

    REGISTRY.wrap(sys, "excepthook", print_error)
    REGISTRY.wrap(parser, "_parse_args", parse)
    REGISTRY.wrap(parser, "get_last_checkpoint", lambda stock, folder: stock(folder) or _resumable_folder(folder))


def _refuse_clinkd_keys(parser: ModuleType, error: Exception) -> None:
    """On an unsupported version, training stays stock and only a recipe with ``use_clinkd`` fails."""

    def parse(stock, argument_parser, args=None, *rest, **kwargs):
        args = parser.read_args(args)
        if args.get("use_clinkd") if isinstance(args, dict) else any("use_clinkd" in str(arg) for arg in args):
            raise error
        return stock(argument_parser, args, *rest, **kwargs)

    REGISTRY.wrap(parser, "_parse_args", parse)


def extend_finetuning_arguments(stock: type) -> type:
    """LLaMA-Factory's ``FinetuningArguments`` with the keys of ``ClinkdArguments`` after its own; its name stays."""
    from ..arguments import ClinkdArguments

    @dataclass
    class FinetuningArguments(ClinkdArguments, stock):
        def __post_init__(self) -> None:
            stock.__post_init__(self)
            self.check_clinkd()

    FinetuningArguments.__qualname__ = stock.__qualname__
    FinetuningArguments.__doc__ = stock.__doc__
    return FinetuningArguments


def _resumable_folder(folder: str) -> str | None:
    """A path, for a started ClinKD run: stock refuses a model without a checkpoint, but each phase finds its own."""
    state = Path(folder) / "clinkd" / "state.json"
    return str(state.parent) if state.is_file() else None


def hook_sft_workflow(workflow: ModuleType) -> None:
    """Runs ClinKD's phases instead of a single SFT run if the recipe sets ``use_clinkd``."""

    def run_sft(stock, model_args, data_args, training_args, finetuning_args, generating_args, callbacks=None):
        arguments = (model_args, data_args, training_args, finetuning_args, generating_args)
        if not getattr(finetuning_args, "use_clinkd", False):
            return _run_with_saved_positions(workflow, stock, *arguments, callbacks)

        REGISTRY.raise_kept_error()
        from ..phases.recipe import RecipeArguments
        from ..phases.run_log import terminal_of_run
        from ..phases.runner import run_procedure
        from ..phases.stock_sft import StockWorkflow, fetch_from_other_hub
        from .run_facts import RunFacts

        with terminal_of_run(training_args):
            fetch_from_other_hub(model_args)
            stock_workflow, recipe = StockWorkflow(workflow, stock), RecipeArguments(*arguments)
            facts = RunFacts(recipe)
            facts.check_architecture()
            check_known_problems(facts)
            return run_procedure(stock_workflow, recipe, callbacks or [])

    _wrap_run(workflow, "sft", run_sft)


def hook_other_stage(workflow: ModuleType) -> None:
    """Keeps the rotary positions that a model was saved with in another stage than SFT."""
    _wrap_run(workflow, workflow.__name__.split(".")[-2], functools.partial(_run_with_saved_positions, workflow))


def _run_with_saved_positions(workflow: ModuleType, stock: Callable[..., None], model_args, *args, **kwargs) -> None:
    from ..phases.stock_sft import saved_positions

    with saved_positions(workflow, model_args):
        return stock(model_args, *args, **kwargs)


def _wrap_run(workflow: ModuleType, stage: str, wrapper: Callable[..., None]) -> None:
    """Replaces ``run_<stage>`` in the workflow and in the modules that imported it before attaching."""
    name = f"run_{stage}"
    stock = getattr(workflow, name)
    run = REGISTRY.wrap(workflow, name, wrapper)
    for consumer in map(sys.modules.get, (f"llamafactory.train.{stage}", "llamafactory.train.tuner")):
        if consumer is not None and consumer.__dict__.get(name) is stock:
            REGISTRY.replace(consumer, name, run)


def hook_export(tuner: ModuleType) -> None:
    """Makes ``llamafactory-cli export`` keep the rotary positions that a model was trained with."""

    def load_model(stock, *args, **kwargs):
        from ..phases.stock_sft import with_positions

        return with_positions(stock)(*args, **kwargs)

    REGISTRY.wrap(tuner, "load_model", load_model)


def hook_chat_engine(engine: ModuleType) -> None:
    """Gives a model loaded for chat or API the positions and the images that it was trained with."""

    def init(stock, self, model_args, data_args, finetuning_args, generating_args):
        from ..rope.saved_positions import apply_saved_positions, settings_of_run
        from ..rope.square import prepared_template

        stock(self, model_args, data_args, finetuning_args, generating_args)
        apply_saved_positions(self.model, model_args, finetuning_args)
        settings = settings_of_run(model_args, finetuning_args)
        if settings is not None:
            self.template = prepared_template(self.template, square=bool(settings.get("image_square")))

    REGISTRY.wrap(engine.HuggingfaceEngine, "__init__", init)


def hook_vllm_engine(engine: ModuleType) -> None:
    """Gives LLaMA-Factory's vLLM backend the training's images; positions come from the plugin inside vLLM."""

    def init(stock, self, model_args, data_args, finetuning_args, generating_args):
        from ..rope.saved_positions import settings_of_run
        from ..rope.square import prepared_template, processor_limits

        stock(self, model_args, data_args, finetuning_args, generating_args)
        settings = settings_of_run(model_args, finetuning_args)
        if settings is not None:
            self.template = prepared_template(self.template, square=bool(settings.get("image_square")))
            self.template.mm_plugin.clinkd_limits = processor_limits(getattr(self.processor, "image_processor", None))

    REGISTRY.wrap(engine.VllmEngine, "__init__", init)


def hook_chat_model(chat_model: ModuleType) -> None:
    """Refuses engines that compute positions themselves for a model that was trained with other positions."""

    def get_infer_args(stock, args=None):
        from ..rope.saved_positions import refuse_foreign_engine

        parsed = stock(args)
        refuse_foreign_engine(parsed[0], parsed[2])
        return parsed

    def init(stock, self, *args, **kwargs):
        """Looks once more: a foreign engine may have downloaded the model."""
        from ..rope.saved_positions import refuse_foreign_engine

        stock(self, *args, **kwargs)
        if hasattr(self.engine, "model_args"):  # vLLM's and SGLang's have it
            refuse_foreign_engine(self.engine.model_args, None)

    REGISTRY.wrap(chat_model, "get_infer_args", get_infer_args)
    REGISTRY.wrap(chat_model.ChatModel, "__init__", init)


def hook_v1_parser(parser: ModuleType) -> None:
    """LLaMA-Factory's v1 path (``USE_V1=1``) has other seams: a ClinKD recipe is refused there, with the fix."""
    stock = parser.HfArgumentParser

    class RecipeParser(stock):
        def parse_dict(self, args, *rest, **kwargs):
            _refuse_v1(args)
            return super().parse_dict(args, *rest, **kwargs)

        def parse_args_into_dataclasses(self, args=None, *rest, **kwargs):
            _refuse_v1({str(arg).lstrip("-").split("=")[0] for arg in args or []})
            return super().parse_args_into_dataclasses(args, *rest, **kwargs)

    REGISTRY.replace(parser, "HfArgumentParser", RecipeParser)


def _refuse_v1(recipe: dict[str, Any] | set[str]) -> None:
    from ..arguments import ClinkdArguments

    keys = sorted({item.name for item in fields(ClinkdArguments)} & set(recipe))
    if keys:
        raise ValueError(
            f"Found the ClinKD keys {', '.join(keys)} with USE_V1=1: ClinKD extends LLaMA-Factory's default (v0) "
            "trainer only. Unset USE_V1 and run the same recipe, or remove these keys."
        )


def hook_webui_interface(interface: ModuleType) -> None:
    """Adds the accordions to LLaMA Board's Train tab, whose keys the Evaluate tab reads too, and to its Chat tab."""
    from ..webui import accordion, chat_tab

    REGISTRY.wrap(interface, "create_top", accordion.create_top)
    REGISTRY.wrap(interface, "create_train_tab", accordion.create_train_tab)
    REGISTRY.wrap(interface, "create_eval_tab", accordion.create_eval_tab)
    for page in (interface, sys.modules["llamafactory.webui.components.infer"]):
        REGISTRY.wrap(page, "create_chat_box", chat_tab.create_chat_box)


def hook_webui_chatter(chatter: ModuleType) -> None:
    """Shows in the Chat tab which positions a loaded ClinKD checkpoint has."""
    from ..webui.chat_model import with_positions_note

    chat = chatter.WebChatModel
    REGISTRY.replace(chat, "load_model", with_positions_note(chat.load_model))  # Gradio needs a generator function


def hook_webui_runner(runner: ModuleType) -> None:
    """Carries the accordion's keys into preview, start and saved configurations, and checks them before a start."""
    from ..webui import board_runner, monitor

    for name in ("_parse_train_args", "_parse_eval_args", "_initialize", "_build_config_dict", "load_args"):
        REGISTRY.wrap(runner.Runner, name, getattr(board_runner, name.lstrip("_")))
    REGISTRY.wrap(runner.Runner, "check_output_dir", board_runner.load_args)
    REGISTRY.replace(runner.Runner, "monitor", monitor.with_report(runner.Runner.monitor))
    REGISTRY.wrap(runner, "get_trainer_info", monitor.trainer_info)
    REGISTRY.wrap(runner, "gen_cmd", board_runner.gen_cmd)
    REGISTRY.wrap(sys.modules["llamafactory.webui.common"], "_clean_cmd", board_runner.clean_cmd)


def hook_log_callback(callbacks: ModuleType) -> None:
    """Writes cross-entropy and KL divergence into ``trainer_log.jsonl``, for LLaMA Board's curves."""
    from ..webui.run_progress import collect_loss_terms, write_loss_terms

    REGISTRY.wrap(callbacks.LogCallback, "on_log", collect_loss_terms)
    REGISTRY.wrap(callbacks.LogCallback, "_write_log", write_loss_terms)


HOOKS = {
    "llamafactory.hparams.parser": hook_parser,
    "llamafactory.train.sft.workflow": hook_sft_workflow,
    **{f"llamafactory.train.{stage}.workflow": hook_other_stage for stage in STAGES},
    "llamafactory.train.tuner": hook_export,
    "llamafactory.chat.hf_engine": hook_chat_engine,
    "llamafactory.chat.vllm_engine": hook_vllm_engine,
    "llamafactory.chat.chat_model": hook_chat_model,
    "llamafactory.v1.config.arg_parser": hook_v1_parser,
    "llamafactory.webui.interface": hook_webui_interface,
    "llamafactory.webui.runner": hook_webui_runner,
    "llamafactory.webui.chatter": hook_webui_chatter,
    "llamafactory.train.callbacks": hook_log_callback,
}
HOOKS_ON_ANY_VERSION = (hook_parser, hook_v1_parser)
"""Hooks that also refuse ClinKD's keys; the others need a supported version of LLaMA-Factory and transformers."""
