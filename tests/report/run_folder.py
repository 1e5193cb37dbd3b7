# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A small run folder with drawn images, like a real run, for the report's tests."""

import json
import math
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

from llamafactory_clinkd.evaluate import evaluate_predictions
from llamafactory_clinkd.utils.boxes import format_box
from llamafactory_clinkd.utils.io import write_json, write_jsonl


STRUCTURES = ("left kidney", "right kidney", "liver", "spleen", "heart", "left hip")
MODALITIES = ("ct", "mr", "x", "ultrasound", "fundus")


def make_run(
    folder: Path,
    *,
    questions: int = 60,
    seed: int = 0,
    skill: float = 0.6,
    kd_alpha: float = 0.5,
    images: int = 12,
    captions: bool = False,
    test_data: str = "med_grit_test",
) -> Path:
    """Writes a whole run: state, predictions, metrics, pseudo-labels, corrections, logs, an attention map.

    Args:
        folder: The ``output_dir``.
        questions: Number of predictions, a quarter of each task.
        seed: Questions and images depend on it alone, so that runs of one seed answer the same questions.
        skill: Share of good answers.
        kd_alpha: As recorded in the recipe.
        images: Number of images.
        test_data: Name of the test data set; the paper's numbers stand beside those of Med-GRIT's.
        captions: Evaluate MIA too, which starts Java and a parser; else its part of the metrics is made up.
    """
    home = folder / "clinkd"
    names = draw_images(folder.parent / f"images-{seed}", images)
    rows = [prediction(number, names, seed, skill) for number in range(questions)]
    write_jsonl(home / "predictions.jsonl", rows)
    identity = {
        "name": "demo-clip",
        "kind": "random weights",
        "library": "open_clip_torch 3",
        "weights_sha256": "ab" * 32,
    }
    write_json(home / "predictions.scorer.json", {"identity": identity, "region": "image"})
    metrics = evaluate_predictions(rows, resamples=50) if captions else with_captions(rows)
    metrics["baselines"] = {"mean_box": {**metrics["tasks"]["VG"], "macro": 0.098}}
    write_json(home / "metrics.json", metrics)
    kept = ("id", "image", "question", "annotation", "task", "modality")
    labels = [
        {"key": f"{number}:{row['id']}", **{key: row[key] for key in kept}, "logprob": -0.4, "error": None,
         "pseudo_label": row["candidates"][0]["text"] if number % 9 else None}
        for number, row in enumerate(rows)
    ]  # fmt: skip
    write_jsonl(home / "pseudo_labels.jsonl", labels)
    for number in (1, 2):
        write_round(home / "corrections", number, rows, skill)
    write_log(home / "distill", steps=240, distils=True)
    write_log(folder, steps=120, distils=False)
    write_json(home / "state.json", {"format": 1, "phases": phases(kd_alpha, test_data)})
    (home / "attention").mkdir(parents=True)
    Image.open(names[0]).resize((256, 256)).save(home / "attention" / "layer-3-liver.png")
    return folder


def with_captions(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics in which all but MIA are evaluated."""
    metrics = evaluate_predictions([row for row in rows if row["task"] != "MIA"], resamples=50, parser="rules")
    names = sorted({row["modality"] for row in rows if row["task"] == "MIA"})
    scores = {"bleu_1": 0.21, "bleu_4": 0.08, "meteor": 0.17, "rouge_l": 0.25, "cider": 0.44}
    modalities = {
        name: {"value": 0.11 + place / 50, "ci": [0.1, 0.25], "n": 3, **scores} for place, name in enumerate(names)
    }
    macro = sum(part["value"] for part in modalities.values()) / len(modalities)
    metrics["tasks"]["MIA"] = {
        "metric": "mBMR", "macro": macro, "ci": [0.1, 0.2], "n": 15, **scores, "modalities": modalities
    }  # fmt: skip
    metrics["average_of"], metrics["ci"] = list(metrics["tasks"]), None
    metrics["average"] = sum(task["macro"] for task in metrics["tasks"].values()) / len(metrics["tasks"])
    return metrics


def draw_images(folder: Path, count: int) -> list[str]:
    """Scan-like pictures: a bright body with darker and lighter organs, of several shapes and modes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number in range(count):
        rng = random.Random(number)
        modality = MODALITIES[number % len(MODALITIES)]
        width, height = ((512, 512), (640, 420), (360, 560))[number % 3]
        colour = (70, 24, 16) if modality == "fundus" else (52, 54, 58)
        image = Image.new("RGB", (width, height), (4, 4, 6))
        pen = ImageDraw.Draw(image)
        pen.ellipse(
            (width * 0.08, height * 0.1, width * 0.92, height * 0.9), fill=colour, outline=(150, 150, 152), width=6
        )
        for _ in range(9):
            x, y = rng.uniform(0.2, 0.7) * width, rng.uniform(0.2, 0.7) * height
            grey = rng.randint(60, 190)
            size = rng.uniform(0.06, 0.2)
            pen.ellipse((x, y, x + size * width, y + size * height), fill=(grey, grey, grey + 4))
        path = folder / f"{modality}_{number:03d}.png"
        image = image.filter(ImageFilter.GaussianBlur(3))
        (image if modality == "fundus" else image.convert("L")).save(path)
        names.append(str(path))
    return names


def prediction(number: int, images: list[str], seed: int, skill: float) -> dict[str, Any]:
    """One row of predictions.jsonl, of the four tasks in turn."""
    rng = random.Random(f"{seed}-{number}")
    structure, image = rng.choice(STRUCTURES), rng.choice(images)
    x, y = rng.randint(100, 550), rng.randint(100, 550)
    box = (x, y, x + rng.randint(120, 320), y + rng.randint(120, 320))
    good = random.Random(f"{seed}-{number}-{skill}").random() < skill
    shift = rng.randint(0, 25) if good else rng.randint(120, 300)
    guess = tuple(min(999, value + shift) for value in box)
    ref = f"<|object_ref_start|>{structure}<|object_ref_end|>"
    other = rng.choice([name for name in STRUCTURES if name != structure])
    long = f"The {structure} appears normal in size and contour, without focal lesion or free fluid."
    short = f"The {structure if good else other} is seen, slightly enlarged."
    task, question, annotation, response = (
        ("VG", f"Where is the {structure} located in the image?",
         f"{ref}{format_box(box)}", f"{ref}{format_box(guess)}"),
        ("ROC", f"What anatomical structure is present at the {format_box(box)}?", structure.capitalize(),
         (structure if good else other).capitalize()),
        ("RC", f"Can you describe the content within the {format_box(box)}?", long, long if good else short),
        ("MIA", "What can you interpret from the overall image?", f"{long} No other finding.", short),
    )[number % 4]  # fmt: skip
    candidates = [{"text": response}, {"text": f"{response} Probably."}, {"text": f"Perhaps the {other}."}]
    candidates = [{**c, "logprob": -0.3 - i, "score": 28.4 - 1.7 * i, "rank": i + 1} for i, c in enumerate(candidates)]
    return {
        "key": f"{number}:{Path(image).stem}", "id": Path(image).stem, "image": image, "question": question,
        "annotation": annotation, "response": response, "task": task, "modality": Path(image).name.split("_")[0],
        "candidates": candidates, "scorer": "demo-clip (random weights)",
    }  # fmt: skip


def write_round(folder: Path, number: int, rows: list[dict[str, Any]], skill: float) -> None:
    """A round's record and summary in the form of ``correct/records.py``."""
    records = []
    for place, row in enumerate(rows):
        status = "kept" if place % 10 < 10 * skill else ("corrected" if place % 3 else "rejected")
        judged = {"similarity": 0.93 if status == "kept" else 0.41, "grounding": "none", "iou": []}
        candidate = {"text": f"This shows: {row['annotation']}", "similarity": 0.9, "score": 0.9,
                     "reasons": ["meaning"] if status == "rejected" else []}  # fmt: skip
        records.append({
            **{key: row[key] for key in ("image", "question", "annotation", "response")}, **judged, "id": row["key"],
            "needs_correction": status != "kept", "reason": "ok" if status == "kept" else "similarity",
            "status": status, "corrected": candidate["text"] if status == "corrected" else None, "error": None,
            "candidates": [] if status == "kept" else [candidate], "fingerprint": "0",
        })  # fmt: skip
    found = {name: sum(each["status"] == name for each in records) for name in ("kept", "corrected", "rejected")}
    summary = {
        "rows": len(records), **found, "reasons": {"ok": found["kept"], "similarity": len(rows) - found["kept"]},
        "rejections": {"meaning": found["rejected"]},
        "usage": {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0},
    }  # fmt: skip
    write_jsonl(folder / f"round-{number}.jsonl", records)
    write_json(folder / f"round-{number}.summary.json", summary)


def write_log(folder: Path, *, steps: int, distils: bool) -> None:
    """A ``trainer_state.json`` whose losses fall noisily."""
    rng = random.Random(steps)
    history = []
    for step in range(1, steps + 1):
        ce = 0.4 + 5 * math.exp(-step / 40) + rng.uniform(-0.15, 0.15)
        entry = {"step": step, "epoch": 2 * step / steps, "loss": ce, "grad_norm": 1.0,
                 "learning_rate": 2e-5 * (1 + math.cos(math.pi * step / steps)) / 2, "ce": ce}  # fmt: skip
        if distils:
            kl = 0.8 * math.exp(-step / 60) + rng.uniform(0, 0.05)
            entry |= {"kl": kl, "loss": ce + 0.5 * kl, "teacher_agreement": 0.9 - 0.6 * math.exp(-step / 50),
                      "teacher_entropy": 1.1 + rng.random() / 9}  # fmt: skip
        history.append(entry)
    history.append({"step": steps, "epoch": 2.0, "train_loss": 1.0, "train_runtime": 12.5})
    write_json(folder / "trainer_state.json", {"log_history": history})


def phases(kd_alpha: float, test_data: str = "med_grit_test") -> dict[str, Any]:
    """The phases of a finished run with the inputs that ``phases/fingerprint.py`` records."""
    common = {"seed": 42, "template": "qwen2_vl", "previous": None, "data_files": {"clinkd_demo_train": "1f" * 32}}
    weights = {"weights": [["model.safetensors", 7_654_321, "0123456789abcdef"]], "configs": ["ab" * 32]}
    training = {"learning_rate": 1e-3, "rope_variant": "mcg", "kd_alpha": kd_alpha, "kd_temperature": 0.5}
    trains = {**training, "model": weights, "teacher": weights}
    corrects = {"correction_rounds": 2, "learning_rate": 1e-3, "corrector": "offline"}
    predicts = {"sasg_candidates": 3, "data_files": {test_data: "2e" * 32}}
    recorded = {
        "pseudo_label": ({"model": weights, "teacher": weights, "num_beams": 3}, 95.2, ["clinkd/pseudo_labels.jsonl"]),
        "distill": (trains, 431.9, ["clinkd/distill"]),
        "correct": (corrects, 388.0, [".", "clinkd/corrections"]),
        "predict": (predicts, 61.4, ["clinkd/predictions.jsonl"]),
        "evaluate": ({}, 8.75, ["clinkd/metrics.json", "clinkd/report.html"]),
    }
    times = {"started": "2026-01-05T09:00:00+00:00", "finished": "2026-01-05T09:05:00+00:00"}
    found = {
        name: {"status": "finished", "inputs": {**common, **inputs}, "seconds": seconds, "attempts": 1,
               "outputs": outputs, **times}
        for name, (inputs, seconds, outputs) in recorded.items()
    }  # fmt: skip
    return json.loads(json.dumps(found))
