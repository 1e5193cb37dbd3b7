# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Both rounds of Reflective Correction on real questions and images, through stock LLaMA-Factory."""

import json
from collections import Counter
from math import ceil

import pytest
from small_run import llamafactory_cli, write_recipe
from vqa_rad import VQA_RAD, build_vqa_rad_model, needs_vqa_rad

from llamafactory_clinkd.data.convert import convert
from llamafactory_clinkd.utils.io import read_json, read_jsonl


ROWS, BATCH = 300, 4


@pytest.mark.slow
@needs_vqa_rad
def test_both_rounds_run_on_vqa_rad_and_no_row_is_lost(tmp_path):
    convert(VQA_RAD / "trainset.json", tmp_path / "data", name="vqa_rad")
    keys = {
        "model_name_or_path": str(build_vqa_rad_model(tmp_path / "model")),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "use_clinkd": True,
        "clinkd_phases": "correct",
        "correction_rounds": 2,
        "dataset_dir": str(tmp_path / "data"),
        "media_dir": str(VQA_RAD / "images"),
        "dataset": "vqa_rad",
        "max_samples": ROWS,
        "template": "qwen2_vl",
        "cutoff_len": 512,
        "image_max_pixels": 56 * 56,
        "max_new_tokens": 8,
        "num_beams": 1,
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": 50,
        "learning_rate": 3e-3,
        "logging_steps": 10,
        "report_to": "none",
        "disable_tqdm": True,
        "overwrite_cache": True,
    }
    done = llamafactory_cli("train", str(write_recipe(tmp_path / "recipe.yaml", keys)), env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-3000:]

    corrections = tmp_path / "run" / "clinkd" / "corrections"
    summary, records = read_json(corrections / "round-1.summary.json"), read_jsonl(corrections / "round-1.jsonl")
    counted = Counter(record["status"] for record in records)
    assert summary["kept"] + summary["corrected"] + summary["rejected"] == summary["rows"] == len(records) == ROWS
    assert {status: summary[status] for status in ("kept", "corrected", "rejected")} == {
        status: counted[status] for status in ("kept", "corrected", "rejected")
    }
    assert summary["corrected"] > 0 and summary["rejected"] > 0
    source = json.loads((VQA_RAD / "trainset.json").read_text(encoding="utf-8"))[:ROWS]
    assert [record["annotation"] for record in records] == [str(row["answer"]).strip() for row in source]

    state = read_json(tmp_path / "run" / "trainer_state.json")
    second = ceil((ROWS + summary["corrected"]) / BATCH)
    assert (state["epoch"], state["global_step"]) == (2.0, ROWS // BATCH + second)
