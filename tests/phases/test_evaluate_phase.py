# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from llamafactory_clinkd.phases.evaluate import run_phase
from llamafactory_clinkd.phases.predict import _with_kept_columns


def conversation(number, question, answer, **more):
    messages = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]
    return {
        "messages": messages,
        "images": [f"images/ct_{number}.png"],
        "id": f"ct_{number}",
        "modality": "ct",
        **more,
    }


@pytest.fixture
def run(tmp_path):
    """What the phase needs of a run: predictions of two questions, of which the data sets have more columns."""
    (tmp_path / "clinkd").mkdir()
    kept = {"answer_type": "OPEN", "organ": "Lung", "annotations": ["mass", "tumour"]}
    sets = {
        "train": [conversation(n, "What is it?", "mass", task="MIA", answer_type="OPEN") for n in range(3)],
        "test": [
            conversation(7, "What is it?", "mass", task="MIA", **kept),
            conversation(8, "Where?", "left", task="ROC"),
        ],
    }
    info = {name: {"file_name": f"{name}.json"} for name in sets}
    for name, rows in {**sets, "dataset_info": info}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    predictions = [
        {"id": "ct_7", "question": "What is it?", "annotation": "mass", "response": "a tumour", "task": "MIA"},
        {"id": "ct_8", "question": "Where?", "annotation": "left", "response": "right", "task": "ROC"},
    ]
    lines = [json.dumps(row | {"modality": "ct", "image": f"{row['id']}.png"}) + "\n" for row in predictions]
    (tmp_path / "clinkd" / "predictions.jsonl").write_text("".join(lines))
    data = SimpleNamespace(dataset=["train"], eval_dataset=["test"], dataset_dir=str(tmp_path))
    return SimpleNamespace(
        folder=tmp_path / "clinkd",
        ranks=SimpleNamespace(rank=0, long_running=lambda what: nullcontext()),
        recipe=SimpleNamespace(data=data, training=SimpleNamespace(disable_tqdm=True)),
        settings=SimpleNamespace(spice_jars=None),
        relative=lambda path: str(path.relative_to(tmp_path)),
    )


def metrics_of(run):
    assert run_phase(run) == ["clinkd/metrics.json"]
    return json.loads((run.folder / "metrics.json").read_text())


def test_columns_of_the_test_set_and_blind_answers_of_the_training_set(run):
    metrics = metrics_of(run)
    assert metrics["tasks"]["VQA"]["by"]["organ"]["Lung"]["open_exact_match"] == 1  # the second ground truth
    assert metrics["tasks"]["ROC"]["macro"] == 0
    assert metrics["baselines"]["blind_VQA"]["macro"] == 1 and "blind_ROC" not in metrics["baselines"]
    assert metrics["baselines_from"] == "3 rows of train"
    (note,) = metrics["notes"]
    assert note.startswith("No blind answers of ROC: the training rows are VQA 3.")


def test_predictions_get_the_columns_of_the_test_set(run):
    """The report and `clinkd evaluate` read the file alone."""
    rows = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    first, second = _with_kept_columns(rows, run.recipe.data)
    assert (first["answer_type"], first["organ"], first["annotations"]) == ("OPEN", "Lung", ["mass", "tumour"])
    assert list(first)[: len(rows[0])] == list(rows[0]) and second == rows[1]
    run.recipe.data.eval_dataset = ["on_a_hub"]
    assert _with_kept_columns(rows, run.recipe.data) == rows


def test_data_sets_that_are_not_here_are_noted(run):
    run.recipe.data.dataset, run.recipe.data.eval_dataset = None, ["on_a_hub"]
    predictions = run.folder / "predictions.jsonl"
    predictions.write_text(predictions.read_text().split("\n")[1] + "\n")
    metrics = metrics_of(run)
    assert "baselines" not in metrics and list(metrics["tasks"]) == ["ROC"]
    assert "'on_a_hub' is not a local file" in metrics["notes"][0] and "no `dataset`" in metrics["notes"][1]
