# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What earlier runs left: removed with ``overwrite_output_dir``, and only that; otherwise refused."""

from types import SimpleNamespace

import pytest

from llamafactory_clinkd.phases.checkpoints import adapter_card, refuse_leftovers, remove_earlier_run, written_by_runs


CARD = "---\nlibrary_name: {}\ntags: []\n---\n# Model\n"
WRITTEN = (
    "adapter_config.json", "adapter_model.safetensors", "model-00001-of-00002.safetensors",
    "model.safetensors.index.json", "tokenizer_config.json", "added_tokens.json", "preprocessor_config.json",
    "trainer_state.json", "training_args.bin", "train_results.json", "training_loss.png", "checkpoint-4/optimizer.pt",
    "clinkd/state.json", "clinkd/distill/model.safetensors",
)  # fmt: skip
OWN = ("notes.md", "data/train.json", "checkpoint-best/model.safetensors", "my_config.json", "log.txt", "recipe.yaml")


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def arguments(**changes):
    names = (
        "model_name_or_path",
        "adapter_name_or_path",
        "ref_model",
        "ref_model_adapters",
        "dataset_dir",
        "media_dir",
    )
    everything = SimpleNamespace(**(dict.fromkeys(names) | {"model_name_or_path": "org/model"} | changes))
    return SimpleNamespace(model=everything, finetuning=everything, data=everything)


def test_everything_that_a_run_wrote_goes_and_nothing_else(tmp_path):
    out = fill(tmp_path / "out", *WRITTEN, *OWN)
    (out / "README.md").write_text(CARD.format("peft"))
    remove_earlier_run(out, arguments())
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == sorted(OWN)
    remove_earlier_run(tmp_path / "new", arguments())


def test_users_readme_stays(tmp_path):
    for text in ("# My experiment\n", "---\ntitle: mine\n---\n", "---\n"):
        (tmp_path / "README.md").write_text(text)
        remove_earlier_run(tmp_path, arguments())
        assert (tmp_path / "README.md").read_text() == text and adapter_card(tmp_path) is None


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("model_name_or_path", ""),
        ("model_name_or_path", "checkpoint-4"),
        ("adapter_name_or_path", "clinkd/distill"),
        ("ref_model", ""),
        ("ref_model_adapters", "checkpoint-4"),
        ("dataset_dir", "clinkd/data"),
    ],
)
def test_what_the_recipe_reads_is_not_removed(tmp_path, key, name):
    fill(tmp_path, *WRITTEN)
    with pytest.raises(ValueError, match=f"`{key}: .*which `overwrite_output_dir: true` clears"):
        remove_earlier_run(tmp_path, arguments(**{key: str(tmp_path / name)}))
    assert all((tmp_path / each).exists() for each in WRITTEN)


def test_data_beside_the_run_may_be_read(tmp_path):
    fill(tmp_path, *WRITTEN, *OWN)
    remove_earlier_run(tmp_path, arguments(dataset_dir=str(tmp_path / "data"), media_dir=str(tmp_path)))
    assert (tmp_path / "data" / "train.json").exists() and not (tmp_path / "clinkd").exists()


@pytest.mark.parametrize("name", [name for name in WRITTEN if "model" in name or "adapter" in name])
def test_new_training_does_not_mix_with_another_runs_model(tmp_path, name):
    fill(tmp_path, name)
    for adapter in (True, False) if "/" not in name else ():
        with pytest.raises(ValueError, match=f"{name} is of another run.*set `overwrite_output_dir: true`"):
            refuse_leftovers(tmp_path, "distill", adapter=adapter)


def test_card_of_an_adapter_is_refused_where_stock_fails_on_it(tmp_path):
    (tmp_path / "README.md").write_text(CARD.format("peft"))
    refuse_leftovers(tmp_path, "distill", adapter=True)
    with pytest.raises(ValueError, match="README.md is of another run"):
        refuse_leftovers(tmp_path, "distill", adapter=False)
    (tmp_path / "README.md").write_text(CARD.format("transformers"))
    refuse_leftovers(tmp_path, "distill", adapter=False)
    assert written_by_runs(tmp_path) == [tmp_path / "README.md"]
