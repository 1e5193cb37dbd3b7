# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The page without a browser: stock's own Manager, Runner and component tree."""

import json
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from small_run import llamafactory_cli

from llamafactory_clinkd.rope import write_rope_config
from llamafactory_clinkd.webui.locales import texts
from llamafactory_clinkd.webui.recipe_keys import default_values


gr = pytest.importorskip("gradio", reason="gradio is not installed: it comes with LLaMA-Factory's own requirements")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A page of this process, built in a folder of its own."""
    import os

    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("board"))
    from llamafactory.webui import interface

    engines = []

    class KeptEngine(interface.Engine):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            engines.append(self)

    stock, interface.Engine = interface.Engine, KeptEngine
    try:
        interface.create_ui()
        yield engines[0]
    finally:
        interface.Engine = stock
        os.chdir(before)


@pytest.fixture
def page(engine, workspace):
    """Sets boxes as a user would; returns what the page sends."""

    def send(**changes):
        values = {
            "top.lang": "en",
            "top.model_name": "Qwen2-VL-2B-Instruct",
            "top.model_path": str(workspace / "student"),
            "top.finetuning_type": "full",
            "top.template": "qwen2_vl",
            "train.dataset_dir": str(workspace / "data"),
            "train.dataset": ["tiny_train"],
            "train.output_dir": "trial",
            "train.compute_type": "fp32",
            "eval.dataset_dir": str(workspace / "data"),
            "eval.dataset": ["tiny_test"],
            "eval.output_dir": "scored",
            "clinkd.use_clinkd": True,
            "clinkd.ref_model": str(workspace / "teacher"),
            "clinkd.eval_dataset": ["tiny_test"],
        } | {name.replace("__", "."): value for name, value in changes.items()}
        tabs = ("top", "train", "eval", "clinkd")
        ids = [elem_id for elem_id in engine.manager._id_to_elem if elem_id.split(".")[0] in tabs]
        return {
            engine.manager.get_elem_by_id(elem_id): values.get(
                elem_id, getattr(engine.manager.get_elem_by_id(elem_id), "value", None)
            )
            for elem_id in ids
        }

    return send


def message_of(engine, data):
    return engine.runner._initialize(data, do_train=True, from_preview=True)


def test_llamafactory_accepts_the_recipe(engine, page):
    from llamafactory.hparams import get_train_args

    data = page(clinkd__image_square=False, clinkd__kd_temperature_squared=False, clinkd__kd_alpha=0.25)
    assert message_of(engine, data) == ""
    args = engine.runner._parse_train_args(data)
    _, data_args, _, finetuning, _ = get_train_args(dict(args))
    assert finetuning.use_clinkd and finetuning.kd_alpha == 0.25 and not finetuning.image_square
    assert finetuning.clinkd_phases == ["pseudo_label", "distill", "correct", "predict", "evaluate"]
    assert data_args.eval_dataset == ["tiny_test"]


def test_started_file_keeps_what_is_switched_off(engine, page):
    from llamafactory.webui.common import save_cmd
    from yaml import safe_load

    args = engine.runner._parse_train_args(page(clinkd__image_square=False))
    with open(save_cmd(args), encoding="utf-8") as f:
        saved = safe_load(f)
    assert saved["image_square"] is False and saved["use_clinkd"] is True


def test_previewed_command_parses_to_the_same_keys(engine, page, tmp_path):
    from llamafactory.hparams import get_train_args

    prompt = tmp_path / "a prompt.txt"
    prompt.write_text("Reword: {answer}", encoding="utf-8")
    data = page(
        clinkd__image_square=False,
        clinkd__corrector="openai",
        clinkd__correction_prompt=str(prompt),
        train__extra_args="{}",
    )
    (output,) = [next(iter(update.values())) for update in engine.runner.preview_train(data)]
    command = output.removeprefix("```bash\n").removesuffix("\n```").replace("\\\n", " ")
    words = shlex.split(command)
    assert words[:2] == ["llamafactory-cli", "train"]
    finetuning = get_train_args(words[2:])[3]
    wanted = get_train_args(dict(engine.runner._parse_train_args(data)))[3]
    assert finetuning.clinkd_dict() == wanted.clinkd_dict()
    assert finetuning.correction_prompt == str(prompt) and not finetuning.image_square


def test_off_is_stock(engine, page):
    data = page(clinkd__use_clinkd=False)
    stock = engine.runner._parse_train_args.__wrapped__(engine.runner, data)
    assert engine.runner._parse_train_args(data) == stock


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"clinkd__ref_model": ""}, "`ref_model` is missing"),
        ({"clinkd__eval_dataset": []}, "`eval_dataset` is missing"),
        ({"clinkd__ref_model": "./nowhere/teacher"}, "`ref_model: ./nowhere/teacher` does not exist"),
        ({"clinkd__kd_temperature": 0}, "`kd_temperature: 0.0` is not allowed"),
        ({"train__training_stage": "DPO"}, "`stage: dpo` is not allowed"),
        ({"train__extra_args": '{"use_dft_loss": true}'}, "`use_dft_loss: true` replaces"),
        (
            {"train__extra_args": '{"max_steps": 3}'},
            "`max_steps: 3` is not allowed. Expected no limit, because it cuts phases short",
        ),
        ({"train__val_size": 0.5}, "Cannot specify `val_size` if `eval_dataset` is not None"),
        ({"clinkd__use_clinkd": False, "train__extra_args": '{"kd_alpha": 1}'}, "`use_clinkd` is false"),
    ],
)
def test_invalid_combinations_are_reported_before_the_start(engine, page, changes, problem):
    assert problem in message_of(engine, page(**changes))
    assert engine.runner.trainer is None


def test_an_element_that_disagrees_with_the_saved_model_is_reported_before_the_start(
    engine, page, workspace, tmp_path
):
    model = shutil.copytree(workspace / "student", tmp_path / "model")
    write_rope_config(model, {"variant": "rope_2d", "image_square": True})
    message = message_of(engine, page(top__model_path=str(model)))
    assert "(Student positions: " in message and "`rope_variant: saved 'rope_2d', requested 'mcg'`" in message
    assert message_of(engine, page(top__model_path=str(model), clinkd__rope_variant="rope_2d")) == ""


def test_message_is_headed_in_the_language_of_the_page(engine, page):
    message = message_of(engine, page(top__lang="ja", clinkd__kd_temperature=-1))
    assert message.startswith(
        "ClinKD の設定が正しくありません (温度: 式 13〜15 の温度 T、0 より大きい値): `kd_temperature: -1.0`"
    )


def test_saved_configuration_loads_in_stock(engine, page):
    data = page(clinkd__kd_alpha=0.75, clinkd__teacher_name="Custom")
    config = engine.runner._build_config_dict(data)
    stock_ids = {elem_id for elem_id in engine.manager._id_to_elem if not elem_id.startswith("clinkd.")}
    assert set(config) <= stock_ids
    assert json.loads(config["train.extra_args"])["kd_alpha"] == 0.75


def test_saved_configuration_round_trips_through_the_runner(engine, page):
    data = page(train__config_path="trip.yaml", clinkd__kd_alpha=0.75, clinkd__correction_max_samples="9")
    engine.runner.save_args(data)
    loaded = engine.runner.load_args("en", "trip.yaml")
    get = engine.manager.get_elem_by_id
    assert loaded[get("clinkd.kd_alpha")] == 0.75 and loaded[get("clinkd.correction_max_samples")] == "9"
    assert loaded[get("clinkd.use_clinkd")] is True
    assert json.loads(loaded[get("train.extra_args")]) == {"optim": "adamw_torch"}


def test_loading_a_stock_configuration_switches_off(engine, page):
    engine.runner.save_args(page(train__config_path="stock.yaml", clinkd__use_clinkd=False))
    loaded = engine.runner.load_args("en", "stock.yaml")
    for name, value in default_values().items():
        assert loaded[engine.manager.get_elem_by_id(f"clinkd.{name}")] == value


def test_unusable_saved_keys_stay_in_the_extra_arguments(engine, page):
    extra = '{"use_clinkd": true, "clinkd_phases": "distil"}'
    stock = SimpleNamespace(
        load_args=lambda self, lang, path: {engine.manager.get_elem_by_id("train.extra_args"): extra}
    )
    from llamafactory_clinkd.webui.board_runner import load_args

    with pytest.warns(UserWarning, match="clinkd_phases"):
        loaded = load_args(stock.load_args, engine.runner, "en", "any.yaml")
    assert loaded == {engine.manager.get_elem_by_id("train.extra_args"): extra}


def test_secrets_have_no_element(engine, page, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-value")
    data = page(clinkd__corrector="openai")
    assert "sk-secret-value" not in json.dumps(
        [engine.runner._parse_train_args(data), engine.runner._build_config_dict(data)]
    )
    assert not any("key" in elem_id for elem_id in engine.manager._id_to_elem if elem_id.startswith("clinkd."))


@pytest.mark.parametrize("variant", [None, "mcg", "rope_2d"])
def test_evaluation_runs_the_last_two_phases_with_the_models_own_positions(engine, page, workspace, tmp_path, variant):
    from llamafactory.hparams import get_train_args

    model = tmp_path / "model"
    shutil.copytree(workspace / "student", model)
    if variant is not None:
        write_rope_config(model, {"variant": variant, "image_square": True})
    data = page(top__model_path=str(model), clinkd__sasg_scorer="logprob", clinkd__sasg_candidates=2)
    assert engine.runner._initialize(data, do_train=False, from_preview=True) == ""
    args = engine.runner._parse_eval_args(data)
    finetuning = get_train_args(dict(args))[3]
    assert finetuning.clinkd_phases == ["predict", "evaluate"] and finetuning.sasg_candidates == 2
    assert finetuning.rope_variant == (variant or "mrope") and finetuning.image_square is (variant is not None)
    assert args["eval_dataset"] == "tiny_test"


def test_evaluation_is_stock_without_prediction_or_clinkd(engine, page):
    for changes in ({"eval__predict": False}, {"clinkd__use_clinkd": False}):
        data = page(**changes)
        stock = engine.runner._parse_eval_args.__wrapped__(engine.runner, data)
        assert engine.runner._parse_eval_args(data) == stock
        assert engine.runner._initialize(data, do_train=False, from_preview=True) == ""


def test_evaluation_settings_are_saved_without_our_ids(engine, page):
    get = engine.manager.get_id_by_elem
    data = {elem: value for elem, value in page().items() if not get(elem).startswith("train.")}
    config = engine.runner._build_config_dict(data)
    assert config["eval.dataset"] == ["tiny_test"] and not any(name.startswith("clinkd.") for name in config)


LIST_COMPONENTS = """
import json, sys
if sys.argv[1] == "detached":
    import torch, llamafactory_clinkd.attach as attach
    attach.detach()
from llamafactory.webui import interface
config = interface.create_ui().get_config_file()
of = {c["id"]: (c["type"], str(c["props"].get("label")), str(c["props"].get("elem_id"))) for c in config["components"]}
def tree(node):
    return [of.get(node["id"], "root"), [tree(child) for child in node.get("children", [])]]
print(json.dumps([tree(config["layout"]), len(config["dependencies"])]))
"""


@pytest.mark.slow
def test_page_is_stock_without_the_plugin(tmp_path):
    import os

    def page_of(mode, **env):
        done = subprocess.run(
            [sys.executable, "-c", LIST_COMPONENTS, mode],
            env={**os.environ, **env},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    ours = [
        ["accordion", texts("en")["groups"]["clinkd"], "None"],
        ["accordion", texts("en")["chat"]["title"], "None"],
        ["html", "ClinKD report", "None"],
    ]

    def without_ours(node):
        kept = [without_ours(child) for child in node[1] if child[0] not in ours]
        return [node[0], kept]

    absent = page_of("absent", TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    attached = page_of("attached")
    assert page_of("detached") == absent
    assert attached[0] != absent[0]
    assert without_ours(attached[0]) == absent[0]


@pytest.mark.long
def test_command_line_accepts_a_started_file(engine, page, workspace, tmp_path):
    from llamafactory.webui.common import save_cmd

    data = page(
        clinkd__clinkd_phases=["distill"],
        clinkd__kd_epochs=1,
        train__output_dir=str(tmp_path / "run"),
        train__extra_args='{"preprocessing_num_workers": 1, "optim": "sgd"}',
        train__cutoff_len=512,
    )
    assert message_of(engine, data) == ""
    done = llamafactory_cli("train", save_cmd(engine.runner._parse_train_args(data)))
    assert done.returncode == 0, done.stderr[-3000:]
    log = (tmp_path / "run" / "clinkd.log").read_text(encoding="utf-8")
    assert "tokens" in log and "Where is" not in log + done.stdout + done.stderr  # of the first row
    assert (tmp_path / "run" / "clinkd" / "state.json").is_file()
