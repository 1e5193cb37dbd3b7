# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The table of seams: LLaMA-Factory module -> what is replaced in it.

Each hook patches the *consumer's* name, because LLaMA-Factory imports with ``from x import y``. The heavy parts of
this plugin are imported when a wrapper is called for a recipe with ``use_clinkd: true``, never while hooking.
"""

import functools
import sys
from collections.abc import Callable
from types import ModuleType

from .registry import REGISTRY
from .versions import UnsupportedVersionError, require_supported_versions


def hook_parser(parser: ModuleType) -> None:
    """Adds the ClinKD keys to every parser that has fine-tuning arguments, and makes a ClinKD run resumable."""
    try:
        require_supported_versions()
    except UnsupportedVersionError as error:
        _refuse_clinkd_keys(parser, error)
        raise

    from .recipe_arguments import extend_finetuning_arguments, noting_options

    stock = parser.FinetuningArguments
    extended = extend_finetuning_arguments(stock)
    for name in ("_TRAIN_ARGS", "_INFER_ARGS", "_EVAL_ARGS", "_TRAIN_MCA_ARGS"):
        REGISTRY.replace_items(getattr(parser, name, []), stock, extended)
    REGISTRY.replace(parser, "_parse_args", noting_options(parser._parse_args, parser.read_args))

    find_checkpoint = parser.get_last_checkpoint

    @functools.wraps(find_checkpoint)
    def get_last_checkpoint(folder: str) -> str | None:
        from .recipe_arguments import resumable_folder

        return find_checkpoint(folder) or resumable_folder(folder)

    REGISTRY.replace(parser, "get_last_checkpoint", get_last_checkpoint)


def _refuse_clinkd_keys(parser: ModuleType, error: Exception) -> None:
    """On an unsupported version, training stays stock and only a recipe that asks for ClinKD fails."""
    parse = parser._parse_args

    @functools.wraps(parse)
    def _parse_args(argument_parser, args=None, *rest, **kwargs):
        args = parser.read_args(args)
        named = args.get("use_clinkd") if isinstance(args, dict) else any("use_clinkd" in str(arg) for arg in args)
        if named:
            raise error
        return parse(argument_parser, args, *rest, **kwargs)

    REGISTRY.replace(parser, "_parse_args", _parse_args)


def hook_sft_workflow(workflow: ModuleType) -> None:
    """Runs ClinKD's phases instead of a single SFT run when the recipe asks for them."""
    require_supported_versions()
    stock = workflow.run_sft

    @functools.wraps(stock)
    def run_sft(model_args, data_args, training_args, finetuning_args, generating_args, callbacks=None):
        if not REGISTRY.attached:
            return stock(model_args, data_args, training_args, finetuning_args, generating_args, callbacks)
        from ..phases.stock_sft import fetch_from_other_hub, saved_positions

        fetch_from_other_hub(model_args)
        if not getattr(finetuning_args, "use_clinkd", False):
            with saved_positions(workflow, model_args):
                return stock(model_args, data_args, training_args, finetuning_args, generating_args, callbacks)

        REGISTRY.raise_kept_error()
        from ..phases.recipe import RecipeArguments
        from ..phases.runner import run_procedure
        from ..phases.stock_sft import StockWorkflow

        arguments = RecipeArguments(model_args, data_args, training_args, finetuning_args, generating_args)
        return run_procedure(StockWorkflow(workflow, stock), arguments, callbacks or [])

    _replace_run(workflow, "sft", run_sft)


def hook_other_stage(workflow: ModuleType) -> None:
    """Lets a model that was saved with its own rotary positions keep them in another stage than SFT."""
    require_supported_versions()
    stage = workflow.__name__.split(".")[-2]
    stock = getattr(workflow, f"run_{stage}")

    @functools.wraps(stock)
    def run(model_args, *args, **kwargs):
        if not REGISTRY.attached:
            return stock(model_args, *args, **kwargs)
        from ..phases.stock_sft import fetch_from_other_hub, saved_positions

        fetch_from_other_hub(model_args)
        with saved_positions(workflow, model_args):
            return stock(model_args, *args, **kwargs)

    _replace_run(workflow, stage, run)


def _replace_run(workflow: ModuleType, stage: str, run: Callable[..., None]) -> None:
    """Replaces ``run_<stage>`` in the workflow, and in what was imported before attaching."""
    stock = getattr(workflow, f"run_{stage}")
    REGISTRY.replace(workflow, f"run_{stage}", run)
    for name in (f"llamafactory.train.{stage}", "llamafactory.train.tuner"):
        consumer = sys.modules.get(name)
        if consumer is not None and consumer.__dict__.get(f"run_{stage}") is stock:
            REGISTRY.replace(consumer, f"run_{stage}", run)


def hook_export(tuner: ModuleType) -> None:
    """Makes ``llamafactory-cli export`` carry the rotary positions that a model was trained with."""
    require_supported_versions()
    stock = tuner.load_model

    @functools.wraps(stock)
    def load_model(tokenizer, model_args, finetuning_args, is_trainable=False, add_valuehead=False):
        if not REGISTRY.attached:
            return stock(tokenizer, model_args, finetuning_args, is_trainable, add_valuehead)
        from ..phases.stock_sft import with_positions

        return with_positions(stock)(tokenizer, model_args, finetuning_args, is_trainable, add_valuehead)

    REGISTRY.replace(tuner, "load_model", load_model)


def hook_chat_engine(engine: ModuleType) -> None:
    """Gives a model loaded for chat or API the positions and the square images that it was trained with."""
    require_supported_versions()
    stock = engine.HuggingfaceEngine.__init__

    @functools.wraps(stock)
    def __init__(self, model_args, data_args, finetuning_args, generating_args):
        stock(self, model_args, data_args, finetuning_args, generating_args)
        if not REGISTRY.attached:
            return
        from ..rope.saved_positions import apply_saved_positions, settings_of_run
        from ..rope.square import squared_template

        settings = settings_of_run(model_args, finetuning_args)
        apply_saved_positions(self.model, model_args, finetuning_args)
        if settings is not None and settings.get("image_square"):
            self.template = squared_template(self.template)

    REGISTRY.replace(engine.HuggingfaceEngine, "__init__", __init__)


def hook_chat_model(chat_model: ModuleType) -> None:
    """Refuses engines that compute their own positions for a model that was trained with others."""
    require_supported_versions()
    stock = chat_model.get_infer_args

    @functools.wraps(stock)
    def get_infer_args(args=None):
        parsed = stock(args)
        if REGISTRY.attached:
            from ..rope.saved_positions import refuse_foreign_engine

            refuse_foreign_engine(parsed[0], parsed[2])
        return parsed

    REGISTRY.replace(chat_model, "get_infer_args", get_infer_args)


def hook_v1_parser(parser: ModuleType) -> None:
    """LLaMA-Factory's v1 path (``USE_V1=1``) has other seams: a ClinKD recipe there is refused with the way out."""
    from .recipe_arguments import refuse_v1

    stock = parser.HfArgumentParser

    class RecipeParser(stock):
        def parse_dict(self, args, *rest, **kwargs):
            refuse_v1(args)
            return super().parse_dict(args, *rest, **kwargs)

        def parse_args_into_dataclasses(self, args=None, *rest, **kwargs):
            refuse_v1({str(arg).lstrip("-").split("=")[0]: True for arg in args or []})
            return super().parse_args_into_dataclasses(args, *rest, **kwargs)

    REGISTRY.replace(parser, "HfArgumentParser", RecipeParser)


def hook_webui_interface(interface: ModuleType) -> None:
    """Adds the accordions to LLaMA Board's Train tab, whose boxes the Evaluate tab reads too, and Chat tab."""
    require_supported_versions()
    from ..select import load_scorer, select_row
    from ..webui import accordion, chat
    from ..webui import eval_tab as evaluation

    for name, create in (("create_train_tab", accordion.create_tab), ("create_eval_tab", evaluation.create_eval_tab)):
        stock = getattr(interface, name)
        REGISTRY.replace(interface, name, functools.wraps(stock)(functools.partial(create, stock=stock)))

    selection = {"load_scorer": functools.lru_cache(maxsize=1)(load_scorer), "rank": select_row}
    for page in (interface, sys.modules["llamafactory.webui.components.infer"]):
        stock = page.create_chat_box
        create = functools.partial(chat.create_chat_box, stock=stock, **selection)
        REGISTRY.replace(page, "create_chat_box", functools.wraps(stock)(create))


def hook_webui_chatter(chatter: ModuleType) -> None:
    """Lets the Chat tab say which positions a loaded ClinKD checkpoint got."""
    require_supported_versions()
    from ..webui.chat_texts import with_positions_note

    stock = chatter.WebChatModel
    REGISTRY.replace(stock, "load_model", with_positions_note(stock.load_model))


def hook_webui_runner(runner: ModuleType) -> None:
    """Carries the accordion's keys into preview, start, saved configurations and back, checked before a start."""
    require_supported_versions()
    from ..phases.validation import check_recipe
    from ..webui import eval_tab as evaluation
    from ..webui import monitor
    from ..webui import stock_runner as ours

    stock = runner.Runner
    REGISTRY.replace(stock, "_parse_train_args", ours.with_clinkd_keys(stock._parse_train_args))
    REGISTRY.replace(stock, "_parse_eval_args", evaluation.with_selection(stock._parse_eval_args))
    REGISTRY.replace(stock, "_initialize", ours.with_validation(stock._initialize, check_recipe))
    REGISTRY.replace(stock, "_build_config_dict", ours.with_folded_keys(stock._build_config_dict))
    REGISTRY.replace(stock, "load_args", ours.with_unfolded_keys(stock.load_args))
    REGISTRY.replace(stock, "check_output_dir", ours.with_unfolded_keys(stock.check_output_dir))
    REGISTRY.replace(stock, "monitor", monitor.with_report(stock.monitor))
    REGISTRY.replace(runner, "get_trainer_info", monitor.with_phases(runner.get_trainer_info))
    REGISTRY.replace(runner, "gen_cmd", ours.quoting(runner.gen_cmd))
    common = sys.modules["llamafactory.webui.common"]
    REGISTRY.replace(common, "_clean_cmd", ours.keeping_false(common._clean_cmd))


def hook_log_callback(callbacks: ModuleType) -> None:
    """Writes cross-entropy and KL divergence into ``trainer_log.jsonl``, for LLaMA Board's curves."""
    require_supported_versions()
    from ..webui.run_progress import noting_parts, writing_parts

    stock = callbacks.LogCallback
    REGISTRY.replace(stock, "on_log", noting_parts(stock.on_log))
    REGISTRY.replace(stock, "_write_log", writing_parts(stock._write_log))


HOOKS = {
    "llamafactory.hparams.parser": hook_parser,
    "llamafactory.train.sft.workflow": hook_sft_workflow,
    **{f"llamafactory.train.{stage}.workflow": hook_other_stage for stage in ("pt", "dpo", "kto", "rm", "ppo")},
    "llamafactory.train.tuner": hook_export,
    "llamafactory.chat.hf_engine": hook_chat_engine,
    "llamafactory.chat.chat_model": hook_chat_model,
    "llamafactory.v1.config.arg_parser": hook_v1_parser,
    "llamafactory.webui.interface": hook_webui_interface,
    "llamafactory.webui.runner": hook_webui_runner,
    "llamafactory.webui.chatter": hook_webui_chatter,
    "llamafactory.train.callbacks": hook_log_callback,
}
