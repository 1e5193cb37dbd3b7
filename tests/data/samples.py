# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rows as the sources have them, and small pictures."""

import json
from pathlib import Path

from PIL import Image


TRAIN_ID = "ct_00--AMOS2022--amos_0001--x_0020"
MED_GRIT_TRAIN = {
    "id": TRAIN_ID,
    "conversations": [
        {"from": "human", "value": f"<img>/home/someone/{TRAIN_ID}.png</img>\nWhere is the <ref>left hip</ref>?"},
        {"from": "gpt", "value": "The <ref>left hip</ref><box>(120,30),(400,500)</box> is here."},
    ],
}
MED_GRIT_TEST = {
    "id": "mr_t1--BraTS2021--BraTS2021_00218--z_0141",
    "conversations": [["What anatomical structure is present at the <box>(12,34),(56,78)</box>?", "Sacrum"]],
}
VQA_RAD = {"qid": 7, "image_name": "synpic1.jpg", "question": "How many gallstones?", "answer": 4}
SLAKE = {
    "qid": 9,
    "img_name": "xmlab1/source.jpg",
    "question": "What modality is used?",
    "answer": "MRI",
    "q_lang": "en",
    "modality": "MRI",
}
LLAVA_MED = {
    "id": "pmc_1",
    "image": "pmc_1.jpg",
    "domain": {"chest_xray": True, "mri": False},
    "conversations": [
        {"from": "human", "value": "What is seen?\n<image>"},
        {"from": "gpt", "value": "A clear lung."},
        {"from": "human", "value": "And the heart?"},
        {"from": "gpt", "value": "It is of normal size."},
    ],
}
LLAVA_MED_MISSPELT = {"conversatons" if key == "conversations" else key: LLAVA_MED[key] for key in LLAVA_MED}
LLAVA_MED_QA = {
    "question_id": 3,
    "image": "a.jpg",
    "text": "What does the picture show?",
    "gpt4_answer": "A fracture.",
    "domain": {"ct_scan": True},
}
SHAREGPT = {
    "messages": [{"role": "user", "content": "<image>Where?"}, {"role": "assistant", "content": "Here."}],
    "images": ["images/ct_1.png"],
    "id": "one",
}
SOURCES = {
    "med_grit": [MED_GRIT_TRAIN, MED_GRIT_TEST],
    "vqa_rad": [VQA_RAD],
    "slake": [SLAKE],
    "llava_med": [LLAVA_MED, LLAVA_MED_MISSPELT],
    "llava_med_qa": [LLAVA_MED_QA],
    "sharegpt": [SHAREGPT],
}


def write_source(path: Path, rows: list) -> Path:
    """A JSON array, or JSONL if the name says so."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def draw(folder: Path, name: str, size: tuple[int, int] = (40, 30), shade: int = 90) -> Path:
    """A small picture of one shade, but for one pixel."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", size, shade)
    picture.putpixel((0, 0), 255 - shade)
    picture.save(path)
    return path


def sharegpt(image: str, question: str = "<image>Where?", answer: str = "Here.", **side) -> dict:
    """One row of a converted file."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": [image], "id": image, "task": "MIA", "modality": "ct"} | side


def read_rejects(folder: Path) -> list[dict]:
    """Lines of rejects.jsonl."""
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
