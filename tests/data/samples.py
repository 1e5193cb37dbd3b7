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
QUESTION = {"image": "a.jpg", "question": "Is there a mass?", "answer": "no", "answer_type": "CLOSED"}
PMC_VQA = {
    "Figure_path": "PMC1_fig.jpg",
    "Question": " What is shown? ",
    "Choice A": " A:Liver ",
    "Choice B": " B:Spleen ",
    "Choice C": " C:Kidney ",
    "Choice D": " D:Lung ",
    "Answer": "Spleen",
    "Answer_label": "B",
}
OPENAI = {
    "messages": [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "a.jpg"}}, {"type": "text", "text": "What is it?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "A liver."}]},
    ]
}
LLAMAFACTORY_V1 = {
    "messages": [
        {
            "role": "user",
            "content": [{"type": "text", "value": "What is it?"}, {"type": "image_url", "value": "a.jpg"}],
            "loss_weight": 0.0,
        },
        {"role": "assistant", "content": [{"type": "text", "value": "A liver."}], "loss_weight": 1.0},
    ]
}
MS_SWIFT = {
    "messages": [
        {"role": "user", "content": "<image>Where is the <ref-object>?"},
        {"role": "assistant", "content": "<bbox>"},
    ],
    "images": ["a.jpg"],
    "objects": {"ref": ["liver"], "bbox": [[90, 10, 300, 250]]},
}
QWEN_FINETUNING = {
    "image": "a.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nLocate the liver."},
        {"from": "gpt", "value": '[{"bbox_2d": [100, 200, 300, 400], "label": "liver"}]'},
    ],
}
QWEN_VL = {
    "id": "identity_0",
    "conversations": [
        {"from": "user", "value": "Picture 1: <img>images/a.jpg</img>\nWhere is the <ref>liver</ref>?"},
        {"from": "assistant", "value": "<box>(100,200),(300,400)</box>"},
    ],
}
ALPACA = {"instruction": "Describe the finding.", "input": "Chest X-ray.", "output": "Clear.", "images": ["a.jpg"]}
KVASIR = {
    "id": "cju0",
    "height": 529,
    "width": 622,
    "bbox": [{"label": "polyp", "xmin": 38, "ymin": 5, "xmax": 430, "ymax": 338}],
}
COCO_IMAGE = {"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}
COCO = {
    "coco_image": COCO_IMAGE,
    "category": "liver",
    "annotations": [{"id": 5, "image_id": 1, "category_id": 3, "bbox": [20, 10, 40.5, 30], "iscrowd": 0}],
}
VINDR = {
    "lines": [
        {"image_id": "50a4", "class_name": "Nodule", "rad_id": "R9", "x_min": "10", "y_min": "20"}
        | {"x_max": "110.5", "y_max": "220", "width": "1000", "height": "2000"}
    ]
}
REFCOCO = {
    "question_id": "1",
    "image": "a.jpg",
    "answer": ["left liver", "liver"],
    "bbox": [20.0, 10.0, 40.5, 30.0],
    "segmentation": [20.0, 10.0, 60.5, 40.0],
    "width": 200,
    "height": 100,
}
SOURCES = {
    "coco": [COCO],
    "vindr_cxr": [VINDR],
    "kvasir_seg": [KVASIR],
    "refcoco": [REFCOCO],
    "vqa": [QUESTION],
    "pmc_vqa": [PMC_VQA],
    "ms_swift": [MS_SWIFT],
    "openai": [OPENAI, LLAMAFACTORY_V1],
    "qwen_vl": [QWEN_VL],
    "alpaca": [ALPACA],
    "med_grit": [MED_GRIT_TRAIN, MED_GRIT_TEST],
    "vqa_rad": [VQA_RAD],
    "slake": [SLAKE],
    "llava_med": [LLAVA_MED, LLAVA_MED_MISSPELT],
    "llava_med_qa": [LLAVA_MED_QA],
    "sharegpt": [SHAREGPT, QWEN_FINETUNING],
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
